//! The kit that every backend must pass.

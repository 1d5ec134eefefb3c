//! Random numbers of the system, for ids of requests and of what is made here.

use provisor_core::Chance;
use ring::rand::{SecureRandom, SystemRandom};

/// The system's generator as core's port.
pub(crate) struct System;

impl Chance for System {
    fn next_u64(&mut self) -> u64 {
        let mut bytes = [0_u8; 8];
        // Why no error: the system's generator fails only before it is seeded at boot. An id that is taken
        // then is refused by the store.
        let _ = SystemRandom::new().fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }
}

/// A random word of 16 hexadecimal digits.
pub(crate) fn word() -> String {
    format!("{:016x}", System.next_u64())
}

//! Chance that follows from what it is for: seed, purpose and count, and nothing that was drawn before.
//!
//! So that an order or a trouble that is left out moves nothing else. Rejected: one running generator, after whose
//! first other draw everything is another run.

use provisor_core::Chance as _;
use provisor_core::chance::SplitMix;

/// A generator for one purpose.
pub(crate) fn draw(seed: u64, purpose: &str, number: u64) -> SplitMix {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325 ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for byte in purpose.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let mut chance = SplitMix::new(hash ^ number.wrapping_mul(0xd6e8_feb8_6659_fd93));
    // Why: neighbouring states of SplitMix give unrelated numbers only after the first step.
    chance.next_u64();
    chance
}

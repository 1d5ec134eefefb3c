//! Chance of the simulated cloud: a number that follows from the seed and from what it is for.
//!
//! Nothing is drawn from a running generator: a decision depends on seed, cluster, operation and the count of calls
//! only, so that a decision more in one place moves none in another, and a restart changes nothing.

use provisor_core::Chance;
use provisor_core::chance::SplitMix;

/// A generator for one purpose.
pub(crate) fn roll(seed: u64, parts: &[&str], number: u64) -> SplitMix {
    // FNV-1a over the parts, with a separator that stands in no name.
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325 ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for part in parts {
        for byte in part.bytes().chain([0xff]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    let mut chance = SplitMix::new(hash ^ number.wrapping_mul(0xd6e8_feb8_6659_fd93));
    // Why: neighbouring states of SplitMix give unrelated numbers only after the first step.
    chance.next_u64();
    chance
}

/// A text of the form of a UUID.
pub(crate) fn uuid(seed: u64, parts: &[&str], number: u64) -> String {
    let mut chance = roll(seed, parts, number);
    let (a, b) = (chance.next_u64(), chance.next_u64());
    let (head, middle, version) = (a >> 32, (a >> 16) & 0xffff, a & 0xfff);
    format!("{head:08x}-{middle:04x}-4{version:03x}-{:04x}-{:012x}", (b >> 48) & 0x3fff | 0x8000, b & 0xffff_ffff_ffff)
}

/// Whether `text` fits `pattern`, in which `*` stands for anything.
pub(crate) fn fits(pattern: &str, text: &str) -> bool {
    let mut pieces = pattern.split('*');
    let Some(first) = pieces.next() else { return false };
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut last = None;
    for piece in pieces {
        if let Some(before) = last.replace(piece) {
            let Some(at) = rest.find(before) else { return false };
            rest = rest.get(at + before.len()..).unwrap_or_default();
        }
    }
    last.map_or(rest.is_empty(), |piece| rest.ends_with(piece))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_purpose_gives_the_same_number() {
        let draw = |seed, part, n| roll(seed, &["c", part], n).next_u64();
        assert_eq!(draw(1, "a", 1), draw(1, "a", 1));
        assert_ne!(draw(1, "a", 1), draw(2, "a", 1));
        assert_ne!(draw(1, "a", 1), draw(1, "b", 1));
        assert_ne!(draw(1, "a", 1), draw(1, "a", 2));
        let hits = (0..10_000).filter(|n| roll(7, &["x"], *n).fraction() < 0.1).count();
        assert!((850..1150).contains(&hits), "{hits}");
    }

    #[test]
    fn patterns() {
        for (pattern, text, expected) in [
            ("*", "create_server", true),
            ("create_*", "create_server", true),
            ("create_*", "delete_server", false),
            ("*_server", "stop_server", true),
            ("*_server", "server_x", false),
            ("create_server", "create_server", true),
            ("create_server", "create_servers", false),
            ("c*e_*r", "create_server", true),
            ("a*b*c", "abbc", true),
            ("a*a", "a", false),
        ] {
            assert_eq!(fits(pattern, text), expected, "{pattern} {text}");
        }
        assert_eq!(uuid(1, &["a"], 1).len(), 36);
    }
}

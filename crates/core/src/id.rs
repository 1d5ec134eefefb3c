//! Typed, time-ordered ids (`req_…`, `att_…`): 48 bits of milliseconds and 80 random bits, written in
//! 26 letters of Crockford's base 32 in lower case, so that text order is time order.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::chance::Chance;
use crate::time::Timestamp;

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const LENGTH: usize = 26;

/// What an id names; gives the prefix of its text.
pub trait Named {
    /// The text before the underscore.
    const PREFIX: &'static str;
}

/// An id of one kind of thing. Ids of different kinds cannot be mixed up.
pub struct Id<K>(u128, PhantomData<fn() -> K>);

/// Why a text is no id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an id of the form {0}_ and 26 letters or digits")]
pub struct NotAnId(pub &'static str);

impl<K: Named> Id<K> {
    /// A fresh id for this moment.
    pub fn new(now: Timestamp, chance: &mut dyn Chance) -> Self {
        let millis = u128::from(u64::try_from(now.0 / 1000).unwrap_or(0)) & 0xffff_ffff_ffff;
        let random = (u128::from(chance.next_u64()) << 64 | u128::from(chance.next_u64())) & ((1 << 80) - 1);
        Self(millis << 80 | random, PhantomData)
    }

    /// The n-th id after this one, of the same moment: for things that are made and kept together under one random number.
    #[must_use]
    pub fn following(self, n: u64) -> Self {
        let random = (1 << 80) - 1;
        Self(self.0 & !random | self.0.wrapping_add(u128::from(n)) & random, PhantomData)
    }

    /// The 26 letters without the prefix.
    pub fn letters(&self) -> String {
        self.bytes().into_iter().map(char::from).collect()
    }

    fn bytes(&self) -> [u8; LENGTH] {
        let mut bytes = [b'0'; LENGTH];
        let mut rest = self.0;
        for byte in bytes.iter_mut().rev() {
            let index = usize::try_from(rest & 31).unwrap_or(0);
            *byte = ALPHABET.get(index).copied().unwrap_or(b'0');
            rest >>= 5;
        }
        bytes
    }
}

/// What a letter stands for.
fn digit(letter: u8) -> Option<u8> {
    match letter {
        b'0'..=b'9' => Some(letter - b'0'),
        b'a'..=b'h' => Some(letter - b'a' + 10),
        b'j'..=b'k' => Some(letter - b'j' + 18),
        b'm'..=b'n' => Some(letter - b'm' + 20),
        b'p'..=b't' => Some(letter - b'p' + 22),
        b'v'..=b'z' => Some(letter - b'v' + 27),
        _ => None,
    }
}

impl<K: Named> fmt::Display for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(K::PREFIX)?;
        f.write_str("_")?;
        f.write_str(std::str::from_utf8(&self.bytes()).map_err(|_| fmt::Error)?)
    }
}

impl<K: Named> fmt::Debug for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<K: Named> FromStr for Id<K> {
    type Err = NotAnId;
    fn from_str(text: &str) -> Result<Self, NotAnId> {
        let wrong = || NotAnId(K::PREFIX);
        let letters = text.strip_prefix(K::PREFIX).and_then(|r| r.strip_prefix('_')).ok_or_else(wrong)?;
        if letters.len() != LENGTH {
            return Err(wrong());
        }
        let mut value: u128 = 0;
        for byte in letters.bytes() {
            let digit = digit(byte).ok_or_else(wrong)?;
            value = value.checked_mul(32).and_then(|v| v.checked_add(digit.into())).ok_or_else(wrong)?;
        }
        Ok(Self(value, PhantomData))
    }
}

impl<K> Clone for Id<K> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<K> Copy for Id<K> {}
impl<K> PartialEq for Id<K> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}
impl<K> Eq for Id<K> {}
impl<K> PartialOrd for Id<K> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<K> Ord for Id<K> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}
impl<K> std::hash::Hash for Id<K> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl<K: Named> Serialize for Id<K> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}
impl<'de, K: Named> Deserialize<'de> for Id<K> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        crate::text::read(d, "an id of its kind", |text| text.parse().ok())
    }
}

macro_rules! named {
    ($($marker:ident $alias:ident $prefix:literal $doc:literal;)*) => {$(
        #[doc = $doc]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $marker {}
        impl Named for $marker { const PREFIX: &'static str = $prefix; }
        #[doc = concat!("The id of ", $doc)]
        pub type $alias = Id<$marker>;
    )*};
}

named! {
    Request RequestId "req" "a request.";
    Attempt AttemptId "att" "an attempt.";
    Tenant TenantId "ten" "a tenant.";
    Cluster ClusterId "clu" "a cluster.";
    Event EventId "evt" "an event.";
    Resource ResourceId "res" "a row of the ledger.";
    Token TokenId "tok" "a token.";
}

/// The ownership tag (H1): `pvr-INSTALLATION-LEDGERROW`. It names one row of the ledger.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tag(pub String);

impl Tag {
    /// The tag of a row in an installation.
    pub fn new(installation: &str, row: ResourceId) -> Self {
        Self(format!("pvr-{installation}-{}", row.letters()))
    }

    /// What every tag of an installation begins with.
    pub fn prefix(installation: &str) -> String {
        format!("pvr-{installation}-")
    }

    /// The tag as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The row that this tag names, where it is a tag of `installation`.
    pub fn row(&self, installation: &str) -> Option<ResourceId> {
        format!("res_{}", self.0.strip_prefix(&Self::prefix(installation))?).parse().ok()
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::SplitMix;

    #[test]
    fn an_id_survives_its_text_and_orders_by_time() {
        let mut chance = SplitMix::new(7);
        let early = RequestId::new(Timestamp(1_000_000), &mut chance);
        let late = RequestId::new(Timestamp(2_000_000), &mut chance);
        assert_eq!(early.to_string().parse(), Ok(early));
        assert!(early.to_string() < late.to_string());
        let every: Vec<Option<u8>> = ALPHABET.iter().map(|letter| digit(*letter)).collect();
        assert_eq!(every, (0..32).map(Some).collect::<Vec<_>>());
        assert_eq!((0..=255).filter(|byte| digit(*byte).is_some()).count(), 32);
        assert!("att_00000000000000000000000000".parse::<RequestId>().is_err());
        assert!("req_short".parse::<RequestId>().is_err());
    }

    #[test]
    fn ids_that_follow_one_another_stay_in_their_moment_and_order() {
        let first = EventId::new(Timestamp(1_000_000), &mut SplitMix::new(3));
        assert_eq!(first.following(0), first);
        assert!((0..100).all(|n| first.following(n).to_string() < first.following(n + 1).to_string()));
        let last = EventId::new(Timestamp(1_000_000), &mut Ones);
        assert_eq!(last.following(1).0 >> 80, last.0 >> 80, "the moment is no part of the count");
    }

    struct Ones;

    impl Chance for Ones {
        fn next_u64(&mut self) -> u64 {
            u64::MAX
        }
    }

    #[test]
    fn h1_a_tag_is_short_and_names_its_row() {
        let row = ResourceId::new(Timestamp(5), &mut SplitMix::new(1));
        let tag = Tag::new("k3f9x2m1", row);
        assert!(tag.as_str().len() <= 60);
        assert!(tag.as_str().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
        assert_eq!(tag.row("k3f9x2m1"), Some(row));
        assert_eq!(tag.row("other"), None);
    }
}

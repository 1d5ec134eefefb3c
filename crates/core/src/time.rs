//! Points in time and spans, in whole microseconds. There is no `now()` here: time is an argument.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::text;

mod rfc3339;

/// A point in time: microseconds since 1970-01-01T00:00:00Z. As JSON: RFC 3339 in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub i64);

/// A length of time in microseconds. As JSON: seconds as a number, fractions allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Span(pub i64);

impl Timestamp {
    /// Later than any real time: "not until something happens".
    pub const NEVER: Self = Self(i64::MAX);

    /// This point plus a span; stops at the ends of the range.
    #[must_use]
    pub fn plus(self, span: Span) -> Self {
        Self(self.0.saturating_add(span.0))
    }

    /// The span from `earlier` to this point; zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> Span {
        Span(self.0.saturating_sub(earlier.0).max(0))
    }

    /// RFC 3339 in UTC with microseconds, for example `2026-11-21T10:00:00.000001Z`.
    pub fn to_rfc3339(self) -> String {
        rfc3339::write(self.0).unwrap_or_else(|| "9999-12-31T23:59:59Z".to_owned())
    }

    /// Reads RFC 3339.
    pub fn parse(text: &str) -> Option<Self> {
        let other = || {
            let t = OffsetDateTime::parse(text, &Rfc3339).ok()?;
            i64::try_from(t.unix_timestamp_nanos() / 1000).ok()
        };
        rfc3339::read(text).or_else(other).map(Self)
    }
}

impl Span {
    /// No time at all.
    pub const ZERO: Self = Self(0);

    /// Whole seconds.
    pub const fn seconds(n: i64) -> Self {
        Self(n.saturating_mul(1_000_000))
    }

    /// Whole milliseconds.
    pub const fn millis(n: i64) -> Self {
        Self(n.saturating_mul(1_000))
    }

    /// Seconds with a fraction; negative and non-numbers become zero.
    #[allow(clippy::cast_possible_truncation)]
    pub fn from_seconds_f64(seconds: f64) -> Self {
        if seconds.is_finite() && seconds > 0.0 { Self((seconds * 1e6).round().min(9e15) as i64) } else { Self::ZERO }
    }

    /// In seconds.
    #[allow(clippy::cast_precision_loss)]
    pub fn as_seconds_f64(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// As the standard library's duration.
    pub fn to_std(self) -> std::time::Duration {
        std::time::Duration::from_micros(u64::try_from(self.0).unwrap_or(0))
    }

    /// The sum, stopping at the end of the range.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.to_rfc3339())
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        text::read(d, "an RFC 3339 time", Self::parse)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_f64(self.as_seconds_f64())
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Ok(Self::from_seconds_f64(f64::deserialize(d)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_survives_its_text() {
        for micros in [0, 1, 1_795_000_000_123_456, -1] {
            let t = Timestamp(micros);
            assert_eq!(Timestamp::parse(&t.to_rfc3339()), Some(t));
        }
    }

    #[test]
    fn a_span_survives_its_text() {
        for micros in [0, 1, 1_001, 4_035_678_901, 8_640_000_000_001] {
            let text = serde_json::to_string(&Span(micros)).unwrap();
            assert_eq!(serde_json::from_str::<Span>(&text).unwrap(), Span(micros), "{text}");
        }
    }

    #[test]
    fn never_has_a_text_and_stays_never() {
        assert_eq!(Timestamp::NEVER.plus(Span::seconds(1)), Timestamp::NEVER);
        assert_eq!(Timestamp::NEVER.to_rfc3339(), "9999-12-31T23:59:59Z");
    }
}

//! Reading values that are texts in JSON. Rejected: `Cow<str>`, which is a new text each time, as serde borrows only what
//! a field asks to borrow.

use std::fmt;

use serde::Deserializer;
use serde::de::{Error, Visitor};

/// Reads a value from a text; `what` says in an error what was expected.
pub(crate) fn read<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    what: &'static str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<T, D::Error> {
    deserializer.deserialize_str(Text { what, parse })
}

struct Text<F> {
    what: &'static str,
    parse: F,
}

impl<T, F: Fn(&str) -> Option<T>> Visitor<'_> for Text<F> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        (self.parse)(text).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
    }
}

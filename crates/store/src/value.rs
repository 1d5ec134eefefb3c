//! The values that go into statements and come out of them.

use crate::op::OpError;

/// A value of a statement.
#[derive(Debug, Clone, PartialEq)]
pub enum Val {
    /// NULL.
    Null,
    /// Whole number.
    Int(i64),
    /// Text.
    Text(String),
}

impl From<i64> for Val {
    fn from(v: i64) -> Self {
        Self::Int(v)
    }
}
impl From<bool> for Val {
    fn from(v: bool) -> Self {
        Self::Int(i64::from(v))
    }
}
impl From<&str> for Val {
    fn from(v: &str) -> Self {
        Self::Text(v.to_owned())
    }
}
impl From<String> for Val {
    fn from(v: String) -> Self {
        Self::Text(v)
    }
}
impl<T: Into<Val>> From<Option<T>> for Val {
    fn from(v: Option<T>) -> Self {
        v.map_or(Self::Null, Into::into)
    }
}
impl<K: provisor_core::id::Named> From<provisor_core::id::Id<K>> for Val {
    fn from(v: provisor_core::id::Id<K>) -> Self {
        Self::Text(v.to_string())
    }
}

/// One row of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Row(pub Vec<Val>);

impl Row {
    /// A whole number.
    pub fn int(&self, column: usize) -> Result<i64, OpError> {
        match self.0.get(column) {
            Some(Val::Int(v)) => Ok(*v),
            other => Err(OpError::Corrupt(format!("column {column} is {other:?}, not a number"))),
        }
    }

    /// A text.
    pub fn text(&self, column: usize) -> Result<&str, OpError> {
        match self.0.get(column) {
            Some(Val::Text(v)) => Ok(v),
            other => Err(OpError::Corrupt(format!("column {column} is {other:?}, not a text"))),
        }
    }

    /// A number or NULL.
    pub fn opt_int(&self, column: usize) -> Result<Option<i64>, OpError> {
        if self.0.get(column) == Some(&Val::Null) { Ok(None) } else { self.int(column).map(Some) }
    }

    /// A text or NULL.
    pub fn opt_text(&self, column: usize) -> Result<Option<&str>, OpError> {
        if self.0.get(column) == Some(&Val::Null) { Ok(None) } else { self.text(column).map(Some) }
    }

    /// An id.
    pub fn id<K: provisor_core::id::Named>(&self, column: usize) -> Result<provisor_core::id::Id<K>, OpError> {
        self.text(column)?.parse().map_err(|e: provisor_core::id::NotAnId| OpError::Corrupt(e.to_string()))
    }

    /// A JSON document.
    pub fn json<T: serde::de::DeserializeOwned>(&self, column: usize) -> Result<T, OpError> {
        serde_json::from_str(self.text(column)?).map_err(|e| OpError::Corrupt(e.to_string()))
    }
}

/// A document as it is stored.
pub fn to_json<T: serde::Serialize>(value: &T) -> Result<String, OpError> {
    serde_json::to_string(value).map_err(|e| OpError::Corrupt(e.to_string()))
}

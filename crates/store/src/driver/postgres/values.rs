//! Values on their way to PostgreSQL and back: `bigint` and `text`, and what literals and functions make of them.

use std::error::Error;

use tokio_postgres::types::private::BytesMut;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

use crate::op::OpError;
use crate::value::{Row, Val};

impl ToSql for Val {
    fn to_sql(&self, kind: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match (self, kind) {
            (Self::Null, _) => Ok(IsNull::Yes),
            (Self::Int(number), &Type::INT8) => number.to_sql(kind, out),
            // A parameter beside a literal (`?4 = 0`) is taken for a smaller number.
            (Self::Int(number), &Type::INT4) => i32::try_from(*number)?.to_sql(kind, out),
            (Self::Text(text), &Type::TEXT) => text.to_sql(kind, out),
            (Self::Int(_), _) => Err(format!("a number cannot be a {kind}").into()),
            (Self::Text(_), _) => Err(format!("a text cannot be a {kind}").into()),
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

impl<'a> FromSql<'a> for Val {
    fn from_sql(kind: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        match *kind {
            Type::INT8 => i64::from_sql(kind, raw).map(Self::Int),
            Type::INT4 => i32::from_sql(kind, raw).map(|n| Self::Int(n.into())),
            Type::BOOL => bool::from_sql(kind, raw).map(|b| Self::Int(b.into())),
            Type::TEXT => String::from_sql(kind, raw).map(Self::Text),
            // A transaction's number; eight bytes like a bigint.
            Type::XID8 => i64::from_sql(&Type::INT8, raw).map(Self::Int),
            _ => Err(format!("a column is a {kind}").into()),
        }
    }

    fn from_sql_null(_: &Type) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self::Null)
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

/// A row as operations see it.
pub(super) fn row(found: &tokio_postgres::Row) -> Result<Row, OpError> {
    let value = |column| found.try_get::<usize, Val>(column).map_err(|e| OpError::Corrupt(super::faults::text(&e)));
    (0..found.len()).map(value).collect::<Result<_, _>>().map(Row)
}

/// `?1` as PostgreSQL writes it: `$1`. Where it is compared with null, which does not tell its type, it is
/// said to be a text; every filter that may be left out is one, and the test that prepares all statements
/// finds one that is not.
pub fn numbered(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('?') {
        let digits = after.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(after.len());
        let (number, behind) = after.split_at(digits);
        out += before;
        out += if number.is_empty() { "?" } else { "$" };
        out += number;
        out += if !number.is_empty() && behind.starts_with(" is null") { "::text" } else { "" };
        rest = behind;
    }
    out + rest
}

/// The statement that inserts many rows, made of the one that inserts `values (?1, ?2 …)`: each parameter becomes an array.
pub(super) fn unnested(text: &str, kinds: &[Type]) -> Option<String> {
    let (head, rest) = text.split_once(" values (")?;
    let (tuple, tail) = rest.split_once(')')?;
    if !head.starts_with("insert into ") || head.contains('?') || tail.contains('?') || kinds.is_empty() {
        return None;
    }
    let array = |(index, kind): (usize, &Type)| match *kind {
        Type::INT8 => Some(format!("${}::bigint[]", index + 1)),
        Type::TEXT => Some(format!("${}::text[]", index + 1)),
        _ => None,
    };
    let arrays: Vec<String> = kinds.iter().enumerate().map(array).collect::<Option<_>>()?;
    let item = |item: &str| item.trim().strip_prefix('?').map_or_else(|| item.trim().to_owned(), |number| format!("p{number}"));
    let items: Vec<String> = tuple.split(',').map(item).collect();
    let names: Vec<String> = (1..=kinds.len()).map(|number| format!("p{number}")).collect();
    let (items, arrays, names) = (items.join(", "), arrays.join(", "), names.join(", "));
    Some(format!("{head} select {items} from unnest({arrays}) as rows ({names}){tail}"))
}

#[cfg(test)]
mod tests {
    use tokio_postgres::types::Type;

    use super::{numbered, unnested};

    #[test]
    fn placeholders_are_renamed() {
        assert_eq!(numbered("a = ?1 and b = ?12 or c = '?'"), "a = $1 and b = $12 or c = '?'");
        let one = "insert into t (a, b, c, d) values (?1, 0, ?2, ?2) on conflict (a) do nothing";
        let many = "insert into t (a, b, c, d) select p1, 0, p2, p2 from unnest($1::text[], $2::bigint[]) as rows (p1, p2) \
            on conflict (a) do nothing";
        assert_eq!(unnested(one, &[Type::TEXT, Type::INT8]).as_deref(), Some(many));
        assert_eq!(unnested("update t set a = ?1", &[Type::TEXT]), None);
        assert_eq!(numbered("(?2 is null or a = ?2)"), "($2::text is null or a = $2)");
    }
}

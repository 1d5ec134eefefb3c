//! Reading one configuration value by its kind.

use std::fmt;

use serde_json::Value as Json;

use super::schema::Kind;

/// A checked value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    /// Text, paths, words, addresses.
    Text(String),
    /// Seconds.
    Number(f64),
    /// A whole number.
    Integer(u64),
    /// Address ranges.
    List(Vec<String>),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Number(number) => write!(f, "{number}"),
            Self::Integer(number) => write!(f, "{number}"),
            Self::List(items) => f.write_str(&items.join(",")),
        }
    }
}

impl Value {
    /// As JSON.
    pub(crate) fn json(&self) -> Json {
        match self {
            Self::Text(text) => Json::from(text.clone()),
            // Why: `10` reads better than `10.0`.
            Self::Number(number) => number.to_string().parse::<u64>().map_or_else(|_| Json::from(*number), Json::from),
            Self::Integer(number) => Json::from(*number),
            Self::List(items) => Json::from(items.clone()),
        }
    }
}

/// What a file, a variable or a flag holds before it is checked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Raw {
    /// A text; the only form that variables and flags have.
    Text(String),
    /// A number of the file, as it is written.
    Number(String),
    /// A list of texts.
    List(Vec<String>),
    /// Anything else, by its type's name.
    Other(&'static str),
}

impl fmt::Display for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Number(text) => f.write_str(text),
            Self::List(items) => write!(f, "{items:?}"),
            Self::Other(kind) => write!(f, "(a {kind})"),
        }
    }
}

/// Why a value does not do.
#[derive(Debug, PartialEq)]
pub(crate) struct Broken {
    /// `type`, `format`, `min`, `max`, `enum`.
    pub(crate) rule: &'static str,
    /// A sentence.
    pub(crate) message: String,
}

fn broken<T>(rule: &'static str, message: impl Into<String>) -> Result<T, Broken> {
    Err(Broken { rule, message: message.into() })
}

/// Reads a value. `typed`: it comes from a file, where numbers are no texts.
pub(crate) fn read(kind: Kind, raw: &Raw, typed: bool) -> Result<Value, Broken> {
    match kind {
        Kind::Seconds(min, max) => seconds(&number(raw, typed)?, min, max),
        Kind::Integer(min, max) => integer(&number(raw, typed)?, min, max),
        Kind::Cidrs => cidrs(raw),
        Kind::Secret => secret(text(raw)?),
        Kind::Text | Kind::Path => text(raw).map(Value::Text),
        Kind::Filter => filter(text(raw)?),
        Kind::Database => database(text(raw)?),
        Kind::Address => address(text(raw)?),
        Kind::Word(words) => word(text(raw)?, words),
    }
}

fn text(raw: &Raw) -> Result<String, Broken> {
    match raw {
        Raw::Text(text) if text.is_empty() => broken("min", "must not be empty"),
        Raw::Text(text) if text.contains('\0') => broken("format", "must not contain a zero byte"),
        Raw::Text(text) => Ok(text.clone()),
        _ => broken("type", "must be a text"),
    }
}

fn number(raw: &Raw, typed: bool) -> Result<String, Broken> {
    match raw {
        Raw::Number(text) => Ok(text.replace('_', "")),
        Raw::Text(text) if !typed => Ok(text.trim().to_owned()),
        _ => broken("type", "must be a number"),
    }
}

fn seconds(text: &str, min: f64, max: f64) -> Result<Value, Broken> {
    match text.parse::<f64>() {
        Ok(n) if !n.is_finite() => broken("type", "must be a number of seconds"),
        Ok(n) if n < min => broken("min", format!("must be at least {min} seconds")),
        Ok(n) if n > max => broken("max", format!("must be at most {max} seconds")),
        Ok(n) => Ok(Value::Number(n)),
        Err(_) => broken("type", "must be a number of seconds"),
    }
}

fn integer(text: &str, min: u64, max: u64) -> Result<Value, Broken> {
    match text.parse::<i128>() {
        Ok(n) if n < i128::from(min) => broken("min", format!("must be at least {min}")),
        Ok(n) if n > i128::from(max) => broken("max", format!("must be at most {max}")),
        Ok(n) => Ok(Value::Integer(u64::try_from(n).unwrap_or(max))),
        Err(_) => broken("type", "must be a whole number"),
    }
}

fn cidrs(raw: &Raw) -> Result<Value, Broken> {
    let items = match raw {
        Raw::Text(text) => text.split(',').map(|s| s.trim().to_owned()).filter(|s| !s.is_empty()).collect(),
        Raw::List(items) => items.clone(),
        _ => return broken("type", "must be a list of address ranges"),
    };
    if let Some(wrong) = items.iter().find(|i| !is_cidr(i)) {
        return broken("format", format!("{wrong:?} is no address range; write for example 10.0.0.0/8 or fd00::/8"));
    }
    Ok(Value::List(items))
}

fn is_cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    let (Ok(address), Ok(bits)) = (address.parse::<std::net::IpAddr>(), bits.parse::<u8>()) else { return false };
    bits <= if address.is_ipv4() { 32 } else { 128 }
}

fn secret(text: String) -> Result<Value, Broken> {
    let fits = text.len() <= 512 && text.bytes().all(|b| b.is_ascii_graphic());
    if fits { Ok(Value::Text(text)) } else { broken("format", "must be at most 512 visible ASCII characters without spaces") }
}

fn filter(text: String) -> Result<Value, Broken> {
    match tracing_subscriber::EnvFilter::builder().parse(&text) {
        Ok(_) => Ok(Value::Text(text)),
        Err(e) => broken("format", format!("must be a level or directives such as info,provisor_engine=debug: {e}")),
    }
}

/// A URL's `user:password@` and what comes as `?password=` are left out of messages.
pub(crate) fn without_password(text: &str) -> String {
    let text = match (text.find("://"), text.rfind('@')) {
        (Some(begin), Some(end)) if begin + 3 < end => {
            let head = text.get(..begin + 3).unwrap_or_default();
            format!("{head}…{}", text.get(end..).unwrap_or_default())
        }
        _ => text.to_owned(),
    };
    match text.split_once("password=") {
        Some((before, after)) => {
            let rest = after.find(['&', '"']).and_then(|end| after.get(end..)).unwrap_or_default();
            format!("{before}password=…{rest}")
        }
        None => text,
    }
}

fn database(url: String) -> Result<Value, Broken> {
    if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        return match provisor_store::driver::postgres::check_url(&url) {
            Ok(()) => Ok(Value::Text(url)),
            Err(error) => broken("format", error.to_string()),
        };
    }
    match url.strip_prefix("sqlite://") {
        Some("") | None => broken("format", "must be sqlite:// and a path, or postgres://USER:PASSWORD@HOST:PORT/DATABASE"),
        Some(path) if path.contains('?') => broken("format", "parameters after ? are not known"),
        Some(_) => Ok(Value::Text(url)),
    }
}

fn address(text: String) -> Result<Value, Broken> {
    let fits = text.rsplit_once(':').is_some_and(|(host, port)| {
        let plain = !host.contains(':') || (host.starts_with('[') && host.ends_with(']'));
        !host.is_empty() && plain && !host.contains(char::is_whitespace) && port.parse::<u16>().is_ok()
    });
    if fits { Ok(Value::Text(text)) } else { broken("format", "must be HOST:PORT, for example 127.0.0.1:8620") }
}

fn word(text: String, words: &[&str]) -> Result<Value, Broken> {
    if words.contains(&text.as_str()) {
        Ok(Value::Text(text))
    } else {
        broken("enum", format!("must be one of {}", words.join(", ")))
    }
}

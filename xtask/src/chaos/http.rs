//! HTTP as any client speaks it: one question, one connection, its answer as JSON.
//!
//! Written out over a socket, so that nothing of the product looks at the product, and so that the house
//! tools stay without an HTTP library. Rejected: `curl` (a process for each of thousands of questions).

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

use crate::shell::{Done, Failed};

/// Longest wait for one answer.
const LIMIT: Duration = Duration::from_secs(20);
/// No answer is longer.
const MOST: u64 = 64 << 20;

/// What was answered.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

/// An address that is asked, with a token where one is needed.
#[derive(Debug, Clone)]
pub(crate) struct Http {
    pub(crate) address: String,
    pub(crate) token: String,
}

impl Http {
    /// Asks once. An error is that of the connection: then nobody knows what has been done.
    pub(crate) fn ask(&self, method: &str, path: &str, key: Option<&str>, body: Option<&Value>) -> Done<Answer> {
        let wrong = |e: std::io::Error| Failed::new(format!("{method} {path}: {e}"));
        let address: SocketAddr = self.address.parse().map_err(|_| Failed::new(format!("{} is no address", self.address)))?;
        let mut stream = TcpStream::connect_timeout(&address, LIMIT).map_err(wrong)?;
        stream.set_read_timeout(Some(LIMIT)).and_then(|()| stream.set_write_timeout(Some(LIMIT))).map_err(wrong)?;
        let body = body.map_or_else(String::new, Value::to_string);
        let key = key.map_or_else(String::new, |k| format!("idempotency-key: {k}\r\n"));
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\nconnection: close\r\n{key}\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n",
            self.address,
            self.token,
            body.len()
        );
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes())).map_err(wrong)?;
        let mut bytes = Vec::new();
        stream.take(MOST).read_to_end(&mut bytes).map_err(wrong)?;
        parse(&bytes).ok_or_else(|| Failed::new(format!("{method} {path}: the answer was cut off")))
    }

    /// Reads what must be there.
    pub(crate) fn get(&self, path: &str) -> Done<Value> {
        let answer = self.ask("GET", path, None, None)?;
        if answer.status == 200 {
            return Ok(answer.body);
        }
        Err(Failed::new(format!("GET {path}: {} {}", answer.status, answer.body)))
    }

    /// Every item of a list, over all of its pages.
    pub(crate) fn all(&self, path: &str, cursor: &str) -> Done<Vec<Value>> {
        let joint = if path.contains('?') { '&' } else { '?' };
        let (mut items, mut next) = (Vec::new(), String::new());
        loop {
            let mut page = self.get(&format!("{path}{joint}limit=500{next}"))?;
            let found = page.get_mut("items").and_then(Value::as_array_mut).map(std::mem::take).unwrap_or_default();
            let at = page.get("next_cursor").and_then(Value::as_str).filter(|_| !found.is_empty());
            next = at.map_or_else(String::new, |at| format!("&{cursor}={at}"));
            items.extend(found);
            if next.is_empty() {
                return Ok(items);
            }
        }
    }
}

/// A whole answer; `None` where its end is missing.
fn parse(bytes: &[u8]) -> Option<Answer> {
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = std::str::from_utf8(bytes.get(..end)?).ok()?;
    let rest = bytes.get(end + 4..)?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let header = |name: &str| {
        head.split("\r\n").filter_map(|l| l.split_once(':')).find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.trim())
    };
    let body = match (header("content-length"), header("transfer-encoding")) {
        (Some(length), _) => rest.get(..length.parse().ok()?)?.to_vec(),
        (None, Some("chunked")) => unchunked(rest)?,
        _ => rest.to_vec(),
    };
    let text = String::from_utf8_lossy(&body);
    let body = serde_json::from_str(&text).unwrap_or_else(|_| Value::String(text.into_owned()));
    Some(Answer { status, body })
}

fn unchunked(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|w| w == b"\r\n")?;
        let length = usize::from_str_radix(std::str::from_utf8(rest.get(..end)?).ok()?.split(';').next()?, 16).ok()?;
        if length == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(end + 2..end + 2 + length)?);
        rest = rest.get(end + 4 + length..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn whole_answers_are_read_and_cut_ones_are_not() {
        let plain = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n{\"a\":1}";
        assert_eq!(parse(plain), Some(Answer { status: 200, body: json!({"a": 1}) }));
        assert_eq!(parse(&plain[..plain.len() - 1]), None);
        let chunked = b"HTTP/1.1 409 Conflict\r\ntransfer-encoding: chunked\r\n\r\n3\r\n{\"a\r\n4\r\n\":1}\r\n0\r\n\r\n";
        assert_eq!(parse(chunked), Some(Answer { status: 409, body: json!({"a": 1}) }));
        assert_eq!(parse(&chunked[..chunked.len() - 8]), None);
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\nconte"), None);
    }
}

//! Just enough of Rust to find functions: texts and comments are blanked out, then braces are counted.
//!
//! Rejected: a parser crate; it would be the heaviest dependency of the workspace, for one number.

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Function {
    /// Its name.
    pub(super) name: String,
    /// Line of its `fn`, from 1.
    pub(super) line: usize,
    /// Lines from `fn` to its last brace.
    pub(super) lines: usize,
    /// Inside a `#[cfg(test)]` module.
    pub(super) is_test: bool,
}

/// All functions of a file.
pub(super) fn functions(text: &str) -> Vec<Function> {
    let code = blank(text);
    let tests = test_module(&code);
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let before = code.get(..at).and_then(|s| s.chars().next_back());
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let name: String = code.get(at + 3..).unwrap_or("").chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let Some(body) = body(&code, at) else { continue };
        if name.is_empty() {
            continue; // `fn (…)` is a type
        }
        let line = line_of(&code, at);
        let is_test = tests.is_some_and(|start| at > start);
        found.push(Function { name, line, lines: line_of(&code, body) + 1 - line, is_test });
    }
    found
}

/// Where the test module begins; by custom it is the last thing in a file.
fn test_module(code: &str) -> Option<usize> {
    let at = code.find("#[cfg(test)]")?;
    code.get(at..)?.split_once(']').filter(|(_, rest)| rest.trim_start().starts_with("mod ")).map(|_| at)
}

fn line_of(code: &str, at: usize) -> usize {
    code.bytes().take(at).filter(|b| *b == b'\n').count() + 1
}

/// The position of the brace that ends the body of the function at `at`; `None` for one without a body.
fn body(code: &str, at: usize) -> Option<usize> {
    let (mut round, mut curly) = (0_i32, 0_i32);
    for (offset, byte) in code.bytes().enumerate().skip(at) {
        match byte {
            b'(' | b'[' => round += 1,
            b')' | b']' => round -= 1,
            b';' if round == 0 && curly == 0 => return None,
            b'{' => curly += 1,
            b'}' => {
                curly -= 1;
                if curly <= 0 {
                    return (curly == 0).then_some(offset);
                }
            }
            _ => {}
        }
    }
    None
}

/// The same text with comments, strings and characters turned to spaces, byte for byte; line ends stay.
pub(super) fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        let length = skipped(rest, out.last().copied());
        if length == 0 {
            out.push(if rest.starts_with(b"\n") || rest.first().is_some_and(u8::is_ascii) {
                rest.first().copied().unwrap_or(b' ')
            } else {
                b' '
            });
            at += 1;
        } else {
            out.extend(rest.iter().take(length).map(|b| if *b == b'\n' { b'\n' } else { b' ' }));
            at += length.min(rest.len());
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// How many bytes from here on are a comment, a text or a character; 0 for code.
fn skipped(rest: &[u8], before: Option<u8>) -> usize {
    let in_word = before.is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
    match rest {
        [b'/', b'/', ..] => rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len()),
        [b'/', b'*', ..] => block_comment(rest),
        [b'"', ..] => quoted(rest, 1),
        [b'b', b'"', ..] if !in_word => quoted(rest, 2),
        [b'r', b'"' | b'#', ..] if !in_word => raw(rest, 1),
        [b'b', b'r', b'"' | b'#', ..] if !in_word => raw(rest, 2),
        [b'\'', b'\\', ..] => 2 + rest.iter().skip(3).position(|b| *b == b'\'').map_or(0, |n| n + 2),
        [b'\'', ..] => character(rest),
        _ => 0,
    }
}

/// `'x'`, but not the lifetime `'x`.
fn character(rest: &[u8]) -> usize {
    let head = String::from_utf8_lossy(rest.get(1..rest.len().min(6)).unwrap_or_default()).into_owned();
    let mut chars = head.chars();
    match (chars.next(), chars.next()) {
        (Some(c), Some('\'')) => c.len_utf8() + 2,
        _ => 0,
    }
}

fn quoted(rest: &[u8], start: usize) -> usize {
    let mut escaped = false;
    for (at, byte) in rest.iter().enumerate().skip(start) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// `r"…"`, `r#"…"#` …; 0 for the raw identifier `r#type`.
fn raw(rest: &[u8], start: usize) -> usize {
    let hashes = rest.iter().skip(start).take_while(|b| **b == b'#').count();
    if rest.get(start + hashes) != Some(&b'"') {
        return 0;
    }
    let mut end = vec![b'"'];
    end.resize(1 + hashes, b'#');
    let from = start + hashes + 1;
    let body = rest.get(from..).unwrap_or_default();
    body.windows(end.len()).position(|w| w == end).map_or(rest.len(), |n| from + n + end.len())
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while let Some(pair) = rest.get(at..at + 2) {
        match pair {
            b"/*" => (depth, at) = (depth + 1, at + 2),
            b"*/" => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_comments_and_characters_hide_their_braces() {
        let text = r##"fn a<'x>(s: &'x str) { let _ = ("}", '{', '\'', r#"}"}"#, b"{"); /* { /* } */ */ } // }"##;
        let code = blank(text);
        assert_eq!(code.len(), text.len());
        assert_eq!(code.matches('{').count(), 1, "{code}");
        assert_eq!(code.matches('}').count(), 1, "{code}");
    }

    #[test]
    fn functions_are_measured_from_fn_to_brace() {
        let text = "trait T {\n    fn none(&self) -> [u8; 2];\n    fn some(&self) {\n        if true {}\n    }\n}\nstatic F: fn (u8) = g;\n\
                    fn g(_: u8) {}\n#[cfg(test)]\nmod tests {\n    fn helper() {\n    }\n}\n";
        let found: Vec<(String, usize, usize, bool)> =
            functions(text).into_iter().map(|f| (f.name, f.line, f.lines, f.is_test)).collect();
        let want = [("some", 3, 3, false), ("g", 8, 1, false), ("helper", 11, 2, true)];
        assert_eq!(found, want.map(|(n, l, c, t)| (n.to_owned(), l, c, t)));
    }

    #[test]
    fn a_function_in_a_text_is_none() {
        assert_eq!(functions("const A: &str = \"fn b() {}\"; // fn c() {}"), []);
    }
}

//! Takes a stream of server-sent events apart (WHATWG HTML, "Interpreting an event stream").

/// Longest event that is kept.
const EVENT_LIMIT_BYTES: usize = 4 * 1024 * 1024;

/// One event of a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) id: Option<String>,
    pub(crate) event: Option<String>,
    pub(crate) data: String,
}

/// Collects bytes until lines and events are whole.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    rest: Vec<u8>,
    block: Block,
}

/// An event that is too long.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooLong;

impl Lines {
    /// Takes in bytes; answers the events that they complete.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<Vec<Block>, TooLong> {
        self.rest.extend_from_slice(bytes);
        let mut done = Vec::new();
        while let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches(['\n', '\r']);
            if line.is_empty() {
                let block = std::mem::take(&mut self.block);
                done.extend((!block.data.is_empty()).then_some(block));
            } else {
                self.field(line);
            }
        }
        let long = self.rest.len() > EVENT_LIMIT_BYTES || self.block.data.len() > EVENT_LIMIT_BYTES;
        if long { Err(TooLong) } else { Ok(done) }
    }

    fn field(&mut self, line: &str) {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "id" => self.block.id = Some(value.to_owned()),
            "event" => self.block.event = Some(value.to_owned()),
            "data" => {
                if !self.block.data.is_empty() {
                    self.block.data.push('\n');
                }
                self.block.data.push_str(value);
            }
            // Comments (no name) and what we do not use.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn events_are_whole_however_the_bytes_are_cut() {
        let text = ": hello\n\nid: 7\nevent: a.b\ndata: {\"x\":1}\n\n: beat\r\n\r\ndata: one\r\ndata: two\r\n\r\nid: 9\n";
        let all = Lines::default().push(text.as_bytes()).unwrap();
        for size in [1, 2, 7] {
            let mut lines = Lines::default();
            let cut: Vec<Block> = text.as_bytes().chunks(size).flat_map(|c| lines.push(c).unwrap()).collect();
            assert_eq!(cut, all);
        }
        assert_eq!(all.len(), 2);
        assert_eq!(all.first().and_then(|b| b.id.as_deref()), Some("7"));
        assert_eq!(all.get(1).map(|b| b.data.as_str()), Some("one\ntwo"));
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut lines = Lines::default();
        assert_eq!(lines.push(&vec![b'x'; EVENT_LIMIT_BYTES + 1]), Err(TooLong));
    }
}

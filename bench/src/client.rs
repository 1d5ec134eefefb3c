//! Just enough HTTP/1.1 to drive a server: calls on a connection that stays open, and one stream of events.
//!
//! Rejected: a general client, which takes as much CPU for a call as the server does.

use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use crate::{BenchError, Done, io};

/// Longest answer that is read.
const ANSWER_LIMIT_BYTES: usize = 4 << 20;

/// A connection that stays open.
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
    token: String,
    line: String,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr, token: &str) -> Done<Self> {
        let stream = TcpStream::connect(address).await.map_err(io(format!("connecting to {address}")))?;
        stream.set_nodelay(true).map_err(io("a socket"))?;
        Ok(Self { stream: BufReader::new(stream), token: token.to_owned(), line: String::new() })
    }

    /// One call, to its whole answer.
    pub(crate) async fn call(&mut self, method: &str, path: &str, body: &str) -> Done<Answer> {
        self.send(method, path, body).await?;
        let (status, length) = self.head().await?;
        let length = length.unwrap_or(0);
        if length > ANSWER_LIMIT_BYTES {
            return Err(BenchError::Wrong(format!("an answer of {length} bytes")));
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await.map_err(io("reading an answer"))?;
        Ok(Answer { status, body })
    }

    async fn send(&mut self, method: &str, path: &str, body: &str) -> Done {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            self.token,
            body.len()
        );
        self.stream.get_mut().write_all(head.as_bytes()).await.map_err(io("sending a call"))
    }

    async fn next_line(&mut self) -> Done<&str> {
        self.line.clear();
        let read = self.stream.read_line(&mut self.line).await.map_err(io("reading an answer"))?;
        if read == 0 { Err(BenchError::Wrong("the server closed the connection".to_owned())) } else { Ok(self.line.trim_end()) }
    }

    /// Status and length of an answer.
    async fn head(&mut self) -> Done<(u16, Option<usize>)> {
        let first = self.next_line().await?;
        let status = first.split(' ').nth(1).and_then(|s| s.parse().ok());
        let status = status.ok_or_else(|| BenchError::Wrong(format!("no status: {first}")))?;
        let mut length = None;
        loop {
            let line = self.next_line().await?;
            if line.is_empty() {
                return Ok((status, length));
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().ok();
            }
        }
    }

    /// Turns the connection into a stream of server-sent events.
    pub(crate) async fn follow(mut self, path: &str) -> Done<Events> {
        self.send("GET", path, "").await?;
        match self.head().await? {
            (200, _) => Ok(Events { connection: self, text: Vec::new(), read: 0 }),
            (status, _) => Err(BenchError::Wrong(format!("{path} answered {status}"))),
        }
    }
}

/// Server-sent events as they come.
pub(crate) struct Events {
    connection: Connection,
    text: Vec<u8>,
    read: usize,
}

impl Events {
    /// The data of the next event.
    pub(crate) async fn next(&mut self) -> Done<String> {
        loop {
            while let Some(end) = self.text.iter().skip(self.read).position(|b| *b == b'\n') {
                let line = self.text.get(self.read..self.read + end).unwrap_or_default();
                let data = line.strip_prefix(b"data: ").map(|d| String::from_utf8_lossy(d).into_owned());
                self.read += end + 1;
                if let Some(data) = data {
                    return Ok(data);
                }
            }
            self.text.drain(..self.read);
            self.read = 0;
            self.chunk().await?;
        }
    }

    /// Appends the next chunk of the body.
    async fn chunk(&mut self) -> Done {
        let length = self.connection.next_line().await?;
        let length = usize::from_str_radix(length, 16).ok().filter(|n| (1..=ANSWER_LIMIT_BYTES).contains(n));
        let length = length.ok_or_else(|| BenchError::Wrong("the stream of events ended".to_owned()))?;
        let begin = self.text.len();
        self.text.resize(begin + length, 0);
        let part = self.text.get_mut(begin..).unwrap_or_default();
        self.connection.stream.read_exact(part).await.map_err(io("reading the stream"))?;
        self.connection.next_line().await.map(drop)
    }
}

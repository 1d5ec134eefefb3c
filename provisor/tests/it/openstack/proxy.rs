//! A relay between Provisor and the APIs that loses answers, or ends a token before its time.
//!
//! It stands in `endpoint.overrides`: each service has a path of its own. A call is handed on as it came and really
//! carried out; of a create the answer is thrown away, and the connection with it, so that nobody hears of it.
//! A token is ended by handing on another text in its place: the service's own refusal comes back.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Longest request or answer that is handed on.
const MOST: usize = 16 << 20;

/// A relay that runs until it goes.
pub(super) struct Proxy {
    pub(super) address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    _runtime: tokio::runtime::Runtime,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The answer of every create is lost.
    Creates,
    /// The first token that is seen is good for this many calls.
    Token(usize),
}

/// What went by.
#[derive(Debug, Default)]
struct Seen {
    lost: BTreeMap<String, usize>,
    token: Option<String>,
    calls: usize,
    refused: usize,
}

/// Where each service really is: the first segment of the path, and an address.
type Services = BTreeMap<&'static str, String>;

impl Proxy {
    /// Starts one.
    pub(super) fn start(services: Services, trouble: Trouble) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let (services, count) = (Arc::new(services), Arc::clone(&seen));
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (services, count, client) = (Arc::clone(&services), Arc::clone(&count), client.clone());
                tokio::spawn(async move { relay(stream, &services, &client, trouble, &count).await });
            }
        });
        Self { address, seen, _runtime: runtime }
    }

    /// How many answers were lost, by what was created.
    pub(super) fn lost(&self) -> BTreeMap<String, usize> {
        lock(&self.seen).lost.clone()
    }

    /// How many calls were refused for their token.
    pub(super) fn refused(&self) -> usize {
        lock(&self.seen).refused
    }
}

fn lock(seen: &Mutex<Seen>) -> std::sync::MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Seen {
    /// What is handed on in a token's place.
    fn token(&mut self, token: &str, good_for: usize) -> String {
        if self.token.get_or_insert_with(|| token.to_owned()) != token {
            return token.to_owned();
        }
        self.calls += 1;
        if self.calls > good_for { "ended".to_owned() } else { token.to_owned() }
    }
}

struct Asked {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

async fn relay(mut stream: TcpStream, services: &Services, client: &reqwest::Client, trouble: Trouble, seen: &Mutex<Seen>) {
    let Some(asked) = read(&mut stream).await else { return };
    let mut segments = asked.path.trim_start_matches('/').splitn(2, '/');
    let (service, rest) = (segments.next().unwrap_or_default(), segments.next().unwrap_or_default());
    let Some(base) = services.get(service) else { return };
    let mut request = client.request(asked.method.parse().unwrap(), format!("{base}/{rest}")).body(asked.body);
    for (name, value) in &asked.headers {
        if !["host", "content-length", "connection", "accept-encoding"].contains(&name.as_str()) {
            let value = match trouble {
                Trouble::Token(good_for) if name == "x-auth-token" => lock(seen).token(value, good_for),
                _ => value.clone(),
            };
            request = request.header(name, value);
        }
    }
    let Ok(answer) = request.send().await else { return };
    if answer.status() == 401 {
        lock(seen).refused += 1;
    }
    let (status, headers) = (answer.status(), answer.headers().clone());
    let Ok(body) = answer.bytes().await else { return };
    let creates = asked.method == "POST" && !asked.path.ends_with("/action") && status.is_success();
    if creates && trouble == Trouble::Creates {
        let what = rest.rsplit('/').next().unwrap_or_default().to_owned();
        *lock(seen).lost.entry(what).or_default() += 1;
        return;
    }
    let mut head = format!("HTTP/1.1 {} x\r\ncontent-length: {}\r\nconnection: close\r\n", status.as_u16(), body.len());
    for (name, value) in &headers {
        if !["content-length", "transfer-encoding", "connection"].contains(&name.as_str()) {
            let _ = write!(head, "{name}: {}\r\n", value.to_str().unwrap_or_default());
        }
    }
    head.push_str("\r\n");
    // Whoever does not wait for it any more needs no answer.
    let _ = stream.write_all(head.as_bytes()).await;
    let _ = stream.write_all(&body).await;
}

async fn read(stream: &mut TcpStream) -> Option<Asked> {
    let (mut bytes, mut buffer) = (Vec::new(), [0_u8; 8192]);
    loop {
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
            let mut lines = head.lines();
            let mut words = lines.next()?.split(' ');
            let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
            let split = |line: &str| line.split_once(':').map(|(k, v)| (k.trim().to_lowercase(), v.trim().to_owned()));
            let headers: Vec<(String, String)> = lines.filter_map(split).collect();
            let length = headers.iter().find(|(k, _)| k == "content-length").and_then(|(_, v)| v.parse().ok()).unwrap_or(0);
            if bytes.len() >= end + 4 + length {
                return Some(Asked { method, path, headers, body: bytes[end + 4..end + 4 + length].to_vec() });
            }
        }
        let n = stream.read(&mut buffer).await.ok()?;
        if n == 0 || bytes.len() > MOST {
            return None;
        }
        bytes.extend_from_slice(&buffer[..n]);
    }
}

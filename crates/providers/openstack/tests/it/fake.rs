//! A cloud of canned answers: a listener, a closure, and a record of what was asked.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// What the cloud does with a request.
pub(crate) enum Reply {
    Json(u16, Value),
    /// Reads it all and hangs up.
    Silence,
    /// Hands it on to this URL, and its answer back.
    Forward(String),
    /// Hands it on to this URL, and hangs up: done, and nobody hears of it.
    Swallow(String),
}

/// A request as it came in.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) line: String,
    pub(crate) token: String,
    pub(crate) version: String,
    pub(crate) body: Value,
}

impl Asked {
    pub(crate) fn method(&self) -> &str {
        self.line.split(' ').next().unwrap_or_default()
    }

    /// The path with its query.
    pub(crate) fn path(&self) -> &str {
        self.line.split(' ').nth(1).unwrap_or_default()
    }
}

/// What was handed on, and what came back.
#[derive(Debug, Clone)]
pub(crate) struct Exchange {
    pub(crate) asked: Asked,
    pub(crate) status: u16,
    pub(crate) body: Value,
}

pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    record: Arc<Record>,
}

#[derive(Default)]
struct Record {
    asked: Mutex<Vec<Asked>>,
    exchanges: Mutex<Vec<Exchange>>,
}

impl Fake {
    /// Serves until the test's runtime ends.
    pub(crate) async fn serve(answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let kept: Arc<Record> = Arc::default();
        let record = Arc::clone(&kept);
        let answer = Arc::new(answer);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (record, answer) = (Arc::clone(&record), Arc::clone(&answer));
                tokio::spawn(async move { one(stream, &record, &*answer, address).await });
            }
        });
        Self { address, record: kept }
    }

    /// What was handed on so far.
    pub(crate) fn exchanges(&self) -> Vec<Exchange> {
        self.record.exchanges.lock().expect("record").clone()
    }

    /// The lines of what was asked, log-ins included.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.record.asked.lock().expect("record").iter().map(|asked| asked.line.clone()).collect()
    }

    pub(crate) fn count(&self, start: &str) -> usize {
        self.lines().iter().filter(|line| line.starts_with(start)).count()
    }

    pub(crate) fn provider(&self) -> Arc<dyn provisor_provider::Provider> {
        crate::driver::connect(
            &json!({"auth_url": format!("http://{}", self.address)}),
            &json!({"username": "u", "password": "hunter2", "project_name": "p"}),
            &json!({"network": "net", "external_network": "ext"}),
        )
    }
}

async fn one(mut stream: TcpStream, record: &Record, answer: &(impl Fn(&Asked) -> Reply + Send + Sync), address: SocketAddr) {
    let Some(asked) = read(&mut stream).await else { return };
    record.asked.lock().expect("record").push(asked.clone());
    let reply = match answer(&asked) {
        // Whoever does not care about log-ins gets one.
        Reply::Json(404, Value::Null) if asked.line.starts_with("POST /v3/auth/tokens") => login(address, "t", 3600),
        other => other,
    };
    let (status, body) = match reply {
        Reply::Json(status, body) => (status, body),
        Reply::Silence => return,
        Reply::Forward(url) => forward(&url, &asked, record).await,
        Reply::Swallow(url) => {
            forward(&url, &asked, record).await;
            return;
        }
    };
    let token = body.get("x-subject-token").and_then(Value::as_str).unwrap_or("none").to_owned();
    let text = body.to_string();
    let head = format!(
        "HTTP/1.1 {status} x\r\ncontent-length: {}\r\nconnection: close\r\nx-subject-token: {token}\r\n\
         x-openstack-request-id: req-fake\r\n\r\n",
        text.len()
    );
    let _ = stream.write_all(format!("{head}{text}").as_bytes()).await;
}

/// A client of plain HTTP.
pub(crate) fn client() -> reqwest::Client {
    // Another test may have been first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().build().expect("a client")
}

async fn forward(url: &str, asked: &Asked, record: &Record) -> (u16, Value) {
    let mut request = client().request(asked.method().parse().expect("a method"), url);
    for (name, value) in [("x-auth-token", &asked.token), ("openstack-api-version", &asked.version)] {
        if !value.is_empty() {
            request = request.header(name, value);
        }
    }
    let request = if asked.body.is_null() { request } else { request.json(&asked.body) };
    let answer = request.send().await.expect("an answer");
    let status = answer.status().as_u16();
    let token = answer.headers().get("x-subject-token").and_then(|v| v.to_str().ok()).map(str::to_owned);
    let mut body: Value = answer.json().await.unwrap_or_default();
    record.exchanges.lock().expect("record").push(Exchange { asked: asked.clone(), status, body: body.clone() });
    if let (Some(token), Some(map)) = (token, body.as_object_mut()) {
        map.insert("x-subject-token".to_owned(), Value::from(token));
    }
    (status, body)
}

async fn read(stream: &mut TcpStream) -> Option<Asked> {
    let mut bytes = Vec::new();
    let mut buffer = [0_u8; 4096];
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let header = |name: &str| {
                let mut lines = head.lines().filter_map(|line| line.split_once(": "));
                lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
            };
            let length: usize = header("content-length").and_then(|n| n.parse().ok()).unwrap_or(0);
            if body.len() >= length {
                let line = head.lines().next()?.trim_end_matches(" HTTP/1.1").to_owned();
                let body = serde_json::from_str(body).unwrap_or_default();
                let text = |name| header(name).unwrap_or_default();
                return Some(Asked { line, token: text("x-auth-token"), version: text("openstack-api-version"), body });
            }
        }
        let n = stream.read(&mut buffer).await.ok()?;
        if n == 0 {
            return None;
        }
        bytes.extend_from_slice(&buffer[..n]);
    }
}

/// A good log-in: every service lives at this address.
pub(crate) fn login(address: SocketAddr, token: &str, lifetime_seconds: i64) -> Reply {
    let start = 1_795_000_000_000_000;
    let time = |micros| provisor_core::Timestamp(micros).to_rfc3339();
    let service = |kind: &str, path: &str| json!({"type": kind, "endpoints": [{"interface": "public", "url": format!("http://{address}{path}")}]});
    Reply::Json(
        201,
        json!({"x-subject-token": token, "token": {
        "issued_at": time(start), "expires_at": time(start + lifetime_seconds * 1_000_000),
        "project": {"id": "p1"},
        "catalog": [service("compute", "/v2.1"), service("network", "/net"), service("volumev3", "/v3/p1"),
            service("image", "/image")]}}),
    )
}

/// Nothing of that kind here; for log-ins: an ordinary one.
pub(crate) fn default() -> Reply {
    Reply::Json(404, Value::Null)
}

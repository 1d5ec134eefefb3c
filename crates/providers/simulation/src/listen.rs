//! Real listeners on loopback, so that anybody's probe of a simulated service sees what the cloud says.
//!
//! One task a listener; it exists only while the service answers. The number of listeners is bounded by a share of the
//! process's file descriptors: what does not fit is judged by the cloud alone. Rejected: one listener on all addresses
//! that asks where a connection came in, as it would be open to the network and could not refuse.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

use crate::ports::Way;

/// Connections served at the same time, over all listeners.
const CONNECTIONS: usize = 256;
/// Longest time of one connection.
const PATIENCE: Duration = Duration::from_secs(2);
/// The most listeners whatever the limits of the process.
const MOST: usize = 8192;
/// Where the limits of the process are not to be known.
const USUAL: usize = 256;

/// The listeners of a cloud.
pub(crate) struct Listeners {
    open: Mutex<BTreeMap<SocketAddrV4, AbortHandle>>,
    most: usize,
    connections: Arc<Semaphore>,
}

impl Default for Listeners {
    fn default() -> Self {
        Self { open: Mutex::default(), most: limit(), connections: Arc::new(Semaphore::new(CONNECTIONS)) }
    }
}

/// A third of the open files that the process may have.
fn limit() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find(|l| l.starts_with("Max open files"));
    let soft = line.and_then(|l| l.split_whitespace().nth(3)).map(|n| n.parse::<usize>().unwrap_or(MOST * 3));
    soft.map_or(USUAL, |n| n / 3).min(MOST)
}

impl Listeners {
    /// Begins to listen; false where it cannot.
    pub(crate) fn open(&self, socket: SocketAddrV4, way: Way, text: &str) -> bool {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.contains_key(&socket) {
            return true;
        }
        let Some(runtime) = tokio::runtime::Handle::try_current().ok().filter(|_| open.len() < self.most) else { return false };
        match bind(socket) {
            Ok(listener) => {
                let task = runtime.spawn(accept(listener, way, Arc::from(text), Arc::clone(&self.connections)));
                open.insert(socket, task.abort_handle());
                true
            }
            Err(error) => {
                tracing::warn!(%socket, %error, "a simulated service cannot listen; the cloud judges its probes alone");
                false
            }
        }
    }

    /// Ends listening.
    pub(crate) fn close(&self, socket: SocketAddrV4) {
        if let Some(task) = self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&socket) {
            task.abort();
        }
    }

    /// Whether it listens there.
    pub(crate) fn is_open(&self, socket: SocketAddrV4) -> bool {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&socket)
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        for task in self.open.get_mut().unwrap_or_else(PoisonError::into_inner).values() {
            task.abort();
        }
    }
}

fn bind(socket: SocketAddrV4) -> std::io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(socket)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

async fn accept(listener: TcpListener, way: Way, text: Arc<str>, connections: Arc<Semaphore>) {
    loop {
        match listener.accept().await {
            // Too many at once: this one is dropped, as a small server would.
            Ok((stream, _)) => {
                if let Ok(permit) = Arc::clone(&connections).try_acquire_owned() {
                    let text = Arc::clone(&text);
                    tokio::spawn(async move {
                        let _ = tokio::time::timeout(PATIENCE, serve(stream, way, &text)).await;
                        drop(permit);
                    });
                }
            }
            // Out of file descriptors, most likely: not to be tried again at once.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn serve(mut stream: TcpStream, way: Way, text: &str) -> std::io::Result<()> {
    let mut buffer = [0_u8; 1024];
    match way {
        Way::Ssh => stream.write_all(b"SSH-2.0-Provisor_simulation\r\n").await?,
        Way::Http => {
            let mut head: Vec<u8> = Vec::new();
            while head.len() < 16_384 && !head.windows(4).any(|w| w == b"\r\n\r\n") {
                let read = stream.read(&mut buffer).await?;
                if read == 0 {
                    return Ok(());
                }
                head.extend(buffer.iter().take(read));
            }
            let answer = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}",
                text.len()
            );
            stream.write_all(answer.as_bytes()).await?;
            return stream.shutdown().await;
        }
        Way::Https | Way::Tcp => {}
    }
    while stream.read(&mut buffer).await? > 0 {}
    Ok(())
}

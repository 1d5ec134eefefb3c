//! A proxy before PostgreSQL that cuts connections, also between a commit and its reply.
//!
//! It reads the client's side message by message, because what matters is the moment: a commit is passed on,
//! the server's answer is awaited (so it is committed) and thrown away with the connection. The caller of
//! that commit cannot know what has become of it. Rejected: dropping packets at random, which hits that
//! moment once in a thousand.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::shell::{Done, Failed};

/// The start of a connection without encryption.
const PLAIN: [u8; 4] = 196_608_u32.to_be_bytes();

#[derive(Default)]
struct State {
    /// Of so many commits one loses its reply; 0: none does.
    every: AtomicU32,
    commits: AtomicU32,
    lost: AtomicU32,
    count: AtomicU64,
    open: Mutex<BTreeMap<u64, [TcpStream; 2]>>,
}

/// A proxy; it ends with the program.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
}

impl Proxy {
    /// Before a server on this port of 127.0.0.1.
    pub(crate) fn open(port: u16) -> Done<Self> {
        let wrong = |e: std::io::Error| Failed::new(format!("the proxy: {e}"));
        let listener = TcpListener::bind("127.0.0.1:0").map_err(wrong)?;
        let address = listener.local_addr().map_err(wrong)?;
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // What cannot be passed on is refused by closing it.
                if let Ok(server) = TcpStream::connect(("127.0.0.1", port)) {
                    let _ = shared.pass(client, server);
                }
            }
        });
        Ok(Self { address, state })
    }

    /// From now on the reply to every so-manieth commit is lost. Why by count: by time a run with few commits would lose
    /// them all.
    pub(crate) fn lose_every(&self, every: u32) {
        self.state.every.store(every, Ordering::SeqCst);
    }

    /// Replies to commits lost so far.
    pub(crate) fn lost(&self) -> u32 {
        self.state.lost.load(Ordering::SeqCst)
    }

    /// Cuts everything that is open.
    pub(crate) fn cut(&self) {
        let open = std::mem::take(&mut *self.state.open.lock().unwrap_or_else(PoisonError::into_inner));
        open.values().flatten().for_each(close);
    }
}

fn close(stream: &TcpStream) {
    let _ = stream.shutdown(Shutdown::Both);
}

impl State {
    fn pass(self: &Arc<Self>, client: TcpStream, server: TcpStream) -> std::io::Result<()> {
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let id = self.count.fetch_add(1, Ordering::SeqCst);
        let both = [client.try_clone()?, server.try_clone()?];
        self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(id, both);
        let swallows = Arc::new(AtomicBool::new(false));
        let (up, down) = ((client.try_clone()?, server.try_clone()?), (server, client));
        let (state, flag) = (Arc::clone(self), Arc::clone(&swallows));
        std::thread::spawn(move || {
            state.upwards(&up.0, &up.1, &flag);
            close(&up.0);
            close(&up.1);
        });
        let state = Arc::clone(self);
        std::thread::spawn(move || {
            state.downwards(&down.0, &down.1, &swallows);
            close(&down.0);
            close(&down.1);
            state.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        });
        Ok(())
    }

    /// Passes on what the client says; a commit that is to be lost is noted before it is passed on.
    fn upwards(&self, mut client: &TcpStream, mut server: &TcpStream, swallows: &AtomicBool) {
        let mut frames = Frames::default();
        let mut buffer = vec![0; 64 << 10];
        while let Ok(n) = client.read(&mut buffer) {
            let Some(bytes) = buffer.get(..n).filter(|b| !b.is_empty()) else { return };
            if frames.commits(bytes) {
                let number = self.commits.fetch_add(1, Ordering::SeqCst).wrapping_add(1);
                let every = self.every.load(Ordering::SeqCst);
                swallows.store(number.checked_rem(every) == Some(0), Ordering::SeqCst);
            }
            if server.write_all(bytes).is_err() {
                return;
            }
        }
    }

    fn downwards(&self, mut server: &TcpStream, mut client: &TcpStream, swallows: &AtomicBool) {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(n) = server.read(&mut buffer) {
            let Some(bytes) = buffer.get(..n).filter(|b| !b.is_empty()) else { return };
            if swallows.load(Ordering::SeqCst) {
                self.lost.fetch_add(1, Ordering::SeqCst);
                return;
            }
            if client.write_all(bytes).is_err() {
                return;
            }
        }
    }
}

/// Tells messages of the client apart.
#[derive(Default)]
struct Frames {
    bytes: Vec<u8>,
    has_begun: bool,
}

impl Frames {
    /// Takes in what came; true where a simple query that commits is complete in it.
    fn commits(&mut self, bytes: &[u8]) -> bool {
        self.bytes.extend_from_slice(bytes);
        let mut commits = false;
        loop {
            // The first messages of a connection have no letter.
            let letters = usize::from(self.has_begun);
            let Some(length) = self.bytes.get(letters..letters + 4).and_then(|b| b.try_into().ok()) else { return commits };
            let end = letters + usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX / 2);
            let Some(message) = self.bytes.get(..end) else { return commits };
            let body = message.get(letters + 4..).unwrap_or_default();
            if self.has_begun {
                let text = String::from_utf8_lossy(body).trim_end_matches('\0').trim().to_lowercase();
                commits |= message.first() == Some(&b'Q') && (text == "commit" || text.ends_with("; commit"));
            } else {
                self.has_begun = body.get(..4) == Some(&PLAIN);
            }
            self.bytes.drain(..end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(letter: &[u8], body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).expect("short").to_be_bytes();
        [letter, &length, body].concat()
    }

    #[test]
    fn a_commit_is_seen_wherever_it_is_cut() {
        let start = message(b"", &[&PLAIN[..], b"user\0provisor\0\0"].concat());
        let begin = message(b"Q", b"begin; set synchronous_commit = on\0");
        let commit = message(b"Q", b"rollback to op; commit\0");
        let all = [start, begin, commit].concat();
        for cut in 1..all.len() {
            let mut frames = Frames::default();
            assert!(!frames.commits(&all[..cut]), "{cut}");
            assert!(frames.commits(&all[cut..]), "{cut}");
        }
        assert!(!Frames::default().commits(&message(b"", &80_877_103_u32.to_be_bytes())));
    }

    #[test]
    fn the_reply_to_a_commit_is_lost_after_it_was_passed_on() {
        let server = TcpListener::bind("127.0.0.1:0").expect("a port");
        let proxy = Proxy::open(server.local_addr().expect("bound").port()).expect("a proxy");
        proxy.lose_every(1);
        let mut client = TcpStream::connect(proxy.address).expect("connected");
        let all = [message(b"", &PLAIN), message(b"Q", b"commit\0")].concat();
        client.write_all(&all).expect("sent");
        let (mut behind, _) = server.accept().expect("passed on");
        let mut got = vec![0; all.len()];
        behind.read_exact(&mut got).expect("all of it");
        assert_eq!((got, proxy.lost()), (all, 0));
        behind.write_all(b"COMMIT").expect("answered");
        let mut answer = Vec::new();
        // A reset is as good as an end.
        let _ = client.read_to_end(&mut answer);
        assert_eq!((answer, proxy.lost()), (Vec::new(), 1));
    }
}

//! The PostgreSQL server of a run of tests, shared by the crates whose tests need one.
//!
//! It is the one that `PROVISOR_TEST_POSTGRES_URL` names; else a private one that lives as long as this process: it
//! ends with the pipe to its script. Where there are no server programs the tests are skipped with a line, or fail
//! when `PROVISOR_TEST_REQUIRE_SERVICES=1` is set.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

struct Server {
    /// Ends with `/`.
    base: String,
    // Open until the process ends, which ends the server.
    _pipe: Option<ChildStdin>,
}

static SERVER: OnceLock<Option<Server>> = OnceLock::new();

fn start() -> Option<Server> {
    if let Ok(url) = std::env::var("PROVISOR_TEST_POSTGRES_URL") {
        let base = url.rsplit_once('/').expect("a URL with a database").0.to_owned() + "/";
        return Some(Server { base, _pipe: None });
    }
    let (lines, pipe) = launch(&[], 1)?;
    let (base, _) = lines[0].rsplit_once('/').unwrap();
    Some(Server { base: format!("{base}/"), _pipe: Some(pipe) })
}

/// A server of our own: the lines that its script tells, and what it lives as long as.
#[allow(clippy::zombie_processes)] // It ends with this process.
pub fn launch(env: &[(&str, &str)], lines: usize) -> Option<(Vec<String>, ChildStdin)> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testbeds/postgres/run.sh");
    let mut child = Command::new("bash")
        .arg(script)
        .envs(env.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("bash starts");
    let told: Vec<String> = BufReader::new(child.stdout.take().unwrap()).lines().take(lines).map_while(Result::ok).collect();
    if told.len() < lines {
        let mut why = String::new();
        child.stderr.take().unwrap().read_to_string(&mut why).unwrap();
        let required = std::env::var_os("PROVISOR_TEST_REQUIRE_SERVICES").is_some_and(|v| v == "1");
        assert!(!required, "PostgreSQL does not start: {why}");
        // Past the capture of the test's output.
        writeln!(std::io::stderr().lock(), "skipped on PostgreSQL, which does not start: {}", why.trim()).unwrap();
        return None;
    }
    Some((told, child.stdin.take().unwrap()))
}

/// One query outside of the store, on a connection and a thread of its own, so that no runtime is in its way.
pub fn sql(url: &str, text: &str) -> Vec<String> {
    let (url, text) = (url.to_owned(), text.to_owned());
    let thread = std::thread::Builder::new().spawn(move || {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let (client, link) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
            let link = tokio::spawn(link);
            let answers = client.simple_query(&text).await.unwrap();
            drop(client);
            link.await.unwrap().unwrap();
            let first = |m| match m {
                tokio_postgres::SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or_default().to_owned()),
                _ => None,
            };
            answers.into_iter().filter_map(first).collect()
        })
    });
    thread.unwrap().join().unwrap()
}

/// The URL of a fresh, empty database; `None` without a server.
pub fn database() -> Option<String> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let server = SERVER.get_or_init(start).as_ref()?;
    let name = format!("test_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    sql(&format!("{}postgres", server.base), &format!("create database {name}"));
    Some(format!("{}{name}", server.base))
}

/// Whether there is a server; where there is none, that was said.
#[allow(dead_code, reason = "the engine's tests share this file and ask")]
pub fn is_there() -> bool {
    SERVER.get_or_init(start).is_some()
}

//! Children: run to the end, with their output passed on or kept, and a limit on their time.
//!
//! Both pipes are read by a thread each into one bounded channel; waiting on that channel is the clock, so
//! that nothing here sleeps. At its limit a child is killed by its id.

use std::io::{BufRead as _, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use crate::shell::{Done, Failed, complain, say};

/// What is done with a child's lines besides keeping them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Show {
    /// Nothing: the caller tells what matters.
    Nothing,
    /// Everything is passed on as it comes.
    Everything,
}

/// How a child ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Whether it exited with 0, in time.
    pub(crate) ok: bool,
    /// Lines of its standard output.
    pub(crate) stdout: Vec<String>,
    /// Lines of both, as they came.
    pub(crate) all: Vec<String>,
}

enum Line {
    Out(String),
    Err(String),
}

/// Runs a command without input; fails where it cannot be started.
pub(crate) fn run(mut command: Command, show: Show, limit: Duration) -> Done<Ended> {
    let name = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| Failed::new(format!("{name}: {e}")))?;
    let (send, lines) = sync_channel(1024);
    if let Some(pipe) = child.stdout.take() {
        pass(pipe, send.clone(), Line::Out);
    }
    if let Some(pipe) = child.stderr.take() {
        pass(pipe, send, Line::Err);
    }
    let mut ended = Ended { ok: false, stdout: Vec::new(), all: Vec::new() };
    let in_time = collect(&lines, &mut child, &mut ended, show, limit);
    if !in_time {
        ended.all.push(format!("killed: {name} was not done after {} s", limit.as_secs()));
        end(&mut child);
    }
    let status = child.wait().map_err(|e| Failed::new(format!("{name}: {e}")))?;
    if in_time && !status.success() && status.code() != Some(101) {
        ended.all.push(format!("{name}: {status}"));
    }
    ended.ok = in_time && status.success();
    Ok(ended)
}

/// Runs a command with its output on ours; fails where it fails.
pub(crate) fn must(mut command: Command) -> Done {
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command.stdin(Stdio::null()).status().map_err(|e| Failed::new(format!("{name}: {e}")))?;
    if status.success() { Ok(()) } else { Err(Failed::new(format!("{command:?}: {status}"))) }
}

fn end(child: &mut Child) {
    if let Err(e) = child.kill() {
        complain(&format!("kill {}: {e}", child.id()));
    }
}

fn pass(pipe: impl Read + Send + 'static, send: SyncSender<Line>, wrap: fn(String) -> Line) {
    std::thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut bytes = Vec::new();
        while reader.read_until(b'\n', &mut bytes).is_ok_and(|n| n > 0) {
            let line = String::from_utf8_lossy(&bytes).trim_end_matches(['\n', '\r']).to_owned();
            if send.send(wrap(line)).is_err() {
                return;
            }
            bytes.clear();
        }
    });
}

/// Takes lines until both pipes are closed; false when the time is over first. A child that has ended while a
/// grandchild holds its pipes is not waited for.
fn collect(lines: &Receiver<Line>, child: &mut Child, ended: &mut Ended, show: Show, limit: Duration) -> bool {
    let until = Instant::now() + limit;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        match lines.recv_timeout(left.min(Duration::from_secs(1))) {
            Ok(Line::Out(line)) => {
                if show == Show::Everything {
                    say(&line);
                }
                ended.stdout.push(line.clone());
                ended.all.push(line);
            }
            Ok(Line::Err(line)) => {
                if show == Show::Everything {
                    complain(&line);
                }
                ended.all.push(line);
            }
            Err(RecvTimeoutError::Disconnected) => return true,
            Err(RecvTimeoutError::Timeout) if left.is_zero() => return false,
            Err(RecvTimeoutError::Timeout) => {
                if matches!(child.try_wait(), Ok(Some(_))) {
                    return true;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn both_outputs_and_the_status_are_kept() {
        let ended = run(shell("echo a; echo b >&2; exit 3"), Show::Nothing, Duration::from_secs(20)).expect("started");
        assert!(!ended.ok);
        assert_eq!(ended.stdout, ["a"]);
        assert!(ended.all.contains(&"b".to_owned()));
    }

    #[test]
    fn a_grandchild_that_holds_the_pipes_is_not_waited_for() {
        let start = Instant::now();
        let ended = run(shell("sleep 30 & echo done"), Show::Nothing, Duration::from_secs(20)).expect("started");
        assert!(ended.ok && ended.stdout == ["done"]);
        assert!(start.elapsed() < Duration::from_secs(15));
    }

    #[test]
    fn a_child_that_never_ends_is_killed() {
        let ended = run(shell("echo on; exec sleep 600"), Show::Nothing, Duration::from_millis(200)).expect("started");
        assert!(!ended.ok);
        assert!(ended.all.iter().any(|line| line.starts_with("killed:")));
    }
}

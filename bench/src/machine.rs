//! What the machine says: CPU time of processes, flushes of a disk, and how much else is going on.

use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::load::Measured;
use crate::system::System;
use crate::{BenchError, Done, io};

/// Ticks of a second in `/proc` (USER_HZ, which is 100 on every Linux of today).
const TICKS_PER_SECOND: f64 = 100.0;

/// Counters at one moment.
#[derive(Debug)]
pub(crate) struct Usage {
    at: Instant,
    /// Of the system and all its children.
    system_ticks: u64,
    /// Of its database's server.
    database_ticks: u64,
    /// Of the load generator.
    own_ticks: u64,
    /// Of everything on the machine.
    all_ticks: u64,
    flushes: Option<u64>,
}

impl Usage {
    pub(crate) fn now(system: &System) -> Done<Self> {
        let of = |pids: Vec<u32>| pids.iter().filter_map(|pid| ticks(&format!("/proc/{pid}/stat"))).sum();
        Ok(Self {
            at: Instant::now(),
            system_ticks: of(system.processes()),
            database_ticks: of(system.database_processes()),
            own_ticks: ticks("/proc/self/stat").unwrap_or(0),
            all_ticks: busy()?,
            flushes: flushes(&system.folder),
        })
    }
}

#[allow(clippy::cast_precision_loss, reason = "ticks of a run are few")]
pub(crate) fn measured(before: &Usage, after: &Usage, latencies_ms: Vec<f64>) -> Measured {
    let seconds = (after.at - before.at).as_secs_f64();
    let system = (after.system_ticks - before.system_ticks) as f64 / TICKS_PER_SECOND;
    let database = after.database_ticks.saturating_sub(before.database_ticks) as f64 / TICKS_PER_SECOND;
    let own = (after.own_ticks - before.own_ticks) as f64 / TICKS_PER_SECOND;
    let all = (after.all_ticks - before.all_ticks) as f64 / TICKS_PER_SECOND;
    Measured {
        seconds,
        latencies_ms,
        cpu_ms: system * 1000.0,
        database_cpu_ms: database * 1000.0,
        device_flushes: before.flushes.zip(after.flushes).map(|(b, a)| a.saturating_sub(b)),
        others_ms: (all - own - system - database).max(0.0) * 1000.0,
    }
}

fn read(path: &str) -> Done<String> {
    std::fs::read_to_string(path).map_err(io(path))
}

/// User and system time of a process and its ended children's.
fn ticks(path: &str) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    // Why from the last bracket: the name before it may hold anything.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    fields.get(11..13)?.iter().map(|f| f.parse::<u64>().ok()).sum()
}

/// Ticks that the processors were not idle.
fn busy() -> Done<u64> {
    let text = read("/proc/stat")?;
    let first = text.lines().next().unwrap_or_default();
    let fields: Vec<u64> = first.split_whitespace().skip(1).filter_map(|f| f.parse().ok()).collect();
    let wrong = || BenchError::Wrong("/proc/stat is not understood".to_owned());
    // user, nice, system, idle, iowait, irq, softirq, steal
    let part = |i: usize| fields.get(i).copied().ok_or_else(wrong);
    Ok(part(0)? + part(1)? + part(2)? + part(5)? + part(6)?)
}

/// Flushes that the disk under a folder has done.
fn flushes(folder: &Path) -> Option<u64> {
    let stat = std::fs::read_to_string(disk(folder)?.join("stat")).ok()?;
    stat.split_whitespace().nth(15)?.parse().ok()
}

/// The disk of a folder in `/sys/block`.
fn disk(folder: &Path) -> Option<PathBuf> {
    use std::os::unix::fs::MetadataExt as _;
    let device = std::fs::metadata(folder).ok()?.dev();
    let (major, minor) = (device >> 8 & 0xfff, device & 0xff | device >> 12 & 0xfff00);
    let node = PathBuf::from(format!("/sys/dev/block/{major}:{minor}")).canonicalize().ok()?;
    // A partition's counters lack flushes; its disk is the folder above.
    if node.join("partition").exists() { node.parent().map(Path::to_owned) } else { Some(node) }
}

/// What the kept JSON says of the machine.
pub(crate) fn describe() -> serde_json::Value {
    let line = |path: &str, key: &str| {
        let text = read(path).unwrap_or_default();
        let found = text.lines().find(|l| l.starts_with(key)).and_then(|l| l.split_once(':'));
        found.map(|(_, value)| value.trim().to_owned())
    };
    serde_json::json!({
        "cpus": std::thread::available_parallelism().map_or(0, usize::from),
        "cpu_model": line("/proc/cpuinfo", "model name"),
        "memory": line("/proc/meminfo", "MemTotal"),
        "kernel": read("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
        "load_average": read("/proc/loadavg").unwrap_or_default().split(' ').take(3).collect::<Vec<_>>().join(" "),
    })
}

/// Appends of 4 KiB, each made durable, in a second of one thread.
pub(crate) fn syncs_per_second(folder: &Path) -> Done<f64> {
    use std::io::Write as _;
    let path = folder.join("sync-probe");
    let mut file = std::fs::File::create(&path).map_err(io("a file"))?;
    let begin = Instant::now();
    let mut count = 0_u32;
    while begin.elapsed().as_secs_f64() < 1.0 {
        file.write_all(&[0; 4096]).map_err(io("a file"))?;
        file.sync_data().map_err(io("a file"))?;
        count += 1;
    }
    let rate = f64::from(count) / begin.elapsed().as_secs_f64();
    std::fs::remove_file(&path).map_err(io("a file"))?;
    Ok(rate)
}

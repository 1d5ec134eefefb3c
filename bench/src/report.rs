//! The table for people and the JSON that is kept.

use std::io::Write as _;

use serde_json::{Value, json};

use crate::load::Measured;
use crate::options::{Name, Options};
use crate::{BenchError, Done, io, machine};

/// A line for the person; a closed pipe is no reason to stop.
pub(crate) fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// One row of the table.
#[derive(Debug)]
struct Row {
    name: Name,
    concurrency: usize,
    requests: usize,
    rate: f64,
    p50_ms: f64,
    p99_ms: f64,
    cpu_ms: f64,
    database_cpu_ms: f64,
    flushes: Option<f64>,
    others: f64,
}

/// What was measured so far.
pub(crate) struct Report {
    rows: Vec<Row>,
    machine: Value,
    syncs_per_second: f64,
}

impl Report {
    pub(crate) fn begin() -> Done<Self> {
        let syncs_per_second = machine::syncs_per_second(&std::env::temp_dir())?;
        let report = Self { rows: Vec::new(), machine: machine::describe(), syncs_per_second };
        say(&format!("4 KiB append and fdatasync, one thread: {syncs_per_second:.0}/s"));
        say("system            c    req/s  of floor    p50 ms    p99 ms  CPU ms/req  database's  flushes/req  cores of others");
        Ok(report)
    }

    #[allow(clippy::cast_precision_loss, reason = "requests of a run are few")]
    pub(crate) fn add(&mut self, name: Name, concurrency: usize, measured: &Measured) {
        let requests = measured.latencies_ms.len();
        let each = |total: f64| if requests == 0 { f64::NAN } else { total / requests as f64 };
        let mut latencies_ms = measured.latencies_ms.clone();
        latencies_ms.sort_by(f64::total_cmp);
        let row = Row {
            name,
            concurrency,
            requests,
            rate: requests as f64 / measured.seconds,
            p50_ms: percentile(&latencies_ms, 50),
            p99_ms: percentile(&latencies_ms, 99),
            cpu_ms: each(measured.cpu_ms),
            database_cpu_ms: each(measured.database_cpu_ms),
            flushes: measured.device_flushes.map(|n| each(n as f64)),
            others: measured.others_ms / 1000.0 / measured.seconds,
        };
        let share = self.share(&row).map_or_else(|| "-".to_owned(), |s| format!("{s:.2}"));
        let flushes = row.flushes.map_or_else(|| "-".to_owned(), |f| format!("{f:.2}"));
        say(&format!(
            "{:<15} {:>3} {:>8.0} {share:>9} {:>9.1} {:>9.1} {:>11.3} {:>11.3} {flushes:>12} {:>16.2}",
            name.text(),
            concurrency,
            row.rate,
            row.p50_ms,
            row.p99_ms,
            row.cpu_ms,
            row.database_cpu_ms,
            row.others
        ));
        self.rows.push(row);
    }

    /// The rate as a share of the floor's in this run.
    fn share(&self, row: &Row) -> Option<f64> {
        let floor = self.rows.iter().find(|r| r.name == row.name.floor() && r.concurrency == row.concurrency)?;
        (!row.name.is_floor()).then(|| row.rate / floor.rate)
    }

    pub(crate) fn finish(&self, options: &Options) -> Done {
        let Some(out) = &options.out else { return Ok(()) };
        let rows: Vec<Value> = self.rows.iter().map(|row| self.shown(row)).collect();
        let kept = json!({
            "machine": self.machine,
            "fdatasync_per_second": self.syncs_per_second.round(),
            "seconds_each": options.length.as_secs(),
            "rounds": options.rounds,
            "rows": rows,
        });
        let text = serde_json::to_string_pretty(&kept).map_err(|e| BenchError::Wrong(e.to_string()))?;
        std::fs::write(out, text + "\n").map_err(io(out.display().to_string()))
    }

    fn shown(&self, row: &Row) -> Value {
        json!({
            "system": row.name.text(),
            "concurrency": row.concurrency,
            "requests": row.requests,
            "requests_per_second": rounded(row.rate, 1),
            "share_of_floor": self.share(row).map(|s| rounded(s, 100)),
            "p50_ms": rounded(row.p50_ms, 100),
            "p99_ms": rounded(row.p99_ms, 100),
            "cpu_ms_per_request": rounded(row.cpu_ms, 1000),
            "database_cpu_ms_per_request": rounded(row.database_cpu_ms, 1000),
            "flushes_per_request": row.flushes.map(|f| rounded(f, 100)),
            "cores_of_others": rounded(row.others, 100),
        })
    }
}

fn rounded(value: f64, parts: u32) -> f64 {
    (value * f64::from(parts)).round() / f64::from(parts)
}

/// By nearest rank, of sorted values.
fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let values: Vec<f64> = (1..=200).map(f64::from).collect();
        assert!((percentile(&values, 50) - 100.0).abs() < f64::EPSILON);
        assert!((percentile(&values, 99) - 198.0).abs() < f64::EPSILON);
        assert!((percentile(&[7.0], 99) - 7.0).abs() < f64::EPSILON);
        assert!(percentile(&[], 50).is_nan());
    }
}

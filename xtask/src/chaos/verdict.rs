//! The end of a run: what was seen, judged and told.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::checks::{Breach, CHECKS, Seen, list, text};
use super::http::Http;
use super::meanwhile;
use super::stage::Stage;
use super::trouble::IN_WORK;
use crate::shell::{Done, Failed, say};

/// Longest that what may come late is waited for after the last end.
const SETTLES: Duration = Duration::from_mins(1);

/// Further looks at what may be open.
const LOOKS: usize = 5;

impl Stage<'_> {
    /// Looks at everything and judges it.
    pub(super) fn judge(&mut self) -> Done {
        let took = self.begin.elapsed();
        let sky = self.sky()?;
        let names = self.names.clone();
        let mut seen = self.by_any(|http| Seen::look(http, &sky, &names))?;
        let mut breaches = seen.breaches(false);
        // Several looks, as one is made of many calls and the last rows may close between two of them.
        let mut open = meanwhile::breaches(&seen);
        for _ in 0..LOOKS {
            if open.is_empty() {
                break;
            }
            seen = self.by_any(|http| Seen::look(http, &sky, &names))?;
            open = meanwhile::breaches(&seen);
        }
        breaches.extend(open);
        let begin = Instant::now();
        let mut late = seen.breaches(true);
        while !late.is_empty() && begin.elapsed() < SETTLES {
            std::thread::sleep(Duration::from_secs(1));
            seen = self.by_any(|http| Seen::look(http, &sky, &names))?;
            late = seen.breaches(true);
        }
        breaches.extend(late);
        self.sum_up(&seen, took, begin.elapsed());
        if let Some(traps) = &self.traps {
            say(&traps.told());
        }
        if self.proxy.is_none() {
            let told = if self.was_full { "was full for a while" } else { "was never full (that needs root, and a kill)" };
            say(&format!("the disk {told}"));
        }
        if let Some(proxy) = &self.proxy {
            say(&format!("PostgreSQL restarted: {}; replies to commits lost: {}", self.restarted, proxy.lost()));
        }
        for sentence in CHECKS.iter().map(|check| check.sentence).chain([meanwhile::SENTENCE]) {
            let broken: Vec<&Breach> = breaches.iter().filter(|b| b.check == sentence).collect();
            say(&format!("{} {}", if broken.is_empty() { "  ok " } else { "  NOT" }, sentence));
            broken.iter().take(10).for_each(|b| say(&format!("       {}: {}", b.request.as_deref().unwrap_or("-"), b.what)));
        }
        let mut told: Vec<&String> = breaches.iter().filter_map(|b| b.request.as_ref()).collect();
        told.dedup();
        for id in told.into_iter().take(3) {
            self.by_any(|http| life(http, id))?;
        }
        let few = self.kills.iter().filter(|(_, n)| *n < IN_WORK).count();
        if few > 0 {
            say(&format!("{few} of {} kills fell on fewer than {IN_WORK} requests in work", self.kills.len()));
        }
        if breaches.is_empty() { Ok(()) } else { Err(Failed::new(format!("{} breaches", breaches.len()))) }
    }

    fn sum_up(&self, seen: &Seen, took: Duration, settled: Duration) {
        let mut errors: BTreeMap<&str, usize> = BTreeMap::new();
        for request in seen.requests.iter().filter(|r| text(r, "state") == "rolled_back") {
            let code = request.pointer("/error/code").and_then(Value::as_str);
            *errors.entry(code.unwrap_or(text(request, "outcome"))).or_default() += 1;
        }
        let count = |state: &str| seen.requests.iter().filter(|r| text(r, "state") == state).count();
        let attempts: usize = seen.requests.iter().map(|r| list(r, "attempts").len()).sum();
        say(&format!(
            "{} requests in {:.0} s: {} completed, {} suspended, {} rolled back; {attempts} attempts; {} kills, {} stops; settled after {:.0} s",
            seen.requests.len(),
            took.as_secs_f64(),
            count("completed"),
            count("suspended"),
            count("rolled_back"),
            self.kills.len(),
            self.stops,
            settled.as_secs_f64()
        ));
        let errors: Vec<String> = errors.iter().map(|(code, n)| format!("{n} {code}")).collect();
        say(&format!("rolled back for: {}", errors.join(", ")));
    }
}

/// A request's whole life, a line for each fact.
fn life(http: &Http, id: &str) -> Done {
    let timeline = http.get(&format!("/api/requests/{id}/timeline?detail=operations"))?;
    let rows = http.get(&format!("/api/requests/{id}/resources"))?;
    say(&format!("the life of {id}:"));
    for entry in list(&timeline, "timeline").iter().take(200) {
        let metadata = entry.get("metadata").unwrap_or(&Value::Null).to_string();
        let short: String = metadata.chars().take(400).collect();
        say(&format!("  {} {} {short}", text(entry, "timestamp"), text(entry, "event")));
    }
    for row in list(&rows, "items") {
        say(&format!("  row {row}"));
    }
    Ok(())
}

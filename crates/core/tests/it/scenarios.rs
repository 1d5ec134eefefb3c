//! Text scenarios: `scenarios/*.txt`, one block of text for one case.
//!
//! A case begins with `=== title`. In it stand sections: commands, a line `----`, what they bring, a blank line.
//! `UPDATE_SCENARIOS=1` writes what they bring anew. The commands are in [`Case::run_line`], plans in `plans.rs`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use provisor_core::cluster::Settings;
use provisor_core::event::Endpoint;
use provisor_core::run::{Command, ManualInput};
use provisor_core::spec::Sealed;
use provisor_core::workflow::{Answer, Call, CallKey, Found, Made, Reply};
use provisor_core::{Class, Failure, RequestId, ResourceId, State, Timestamp};
use serde_json::{Value, json};

use crate::bench::{Bench, spec};
use crate::plans::{MANAGED, Plans, VPS, span};
use crate::show::{self, Shown};

/// One case with the state that its lines build up.
struct Case {
    plan: Option<String>,
    actions: (Option<String>, Option<String>),
    clusters: Vec<String>,
    settings: Settings,
    seed: u64,
    slots: usize,
    bench: Option<Bench>,
    shown: Shown,
    calls: Vec<String>,
    extra: String,
}

/// Changes of state that a file's cases made.
pub(crate) type Edges = BTreeSet<(Option<State>, State)>;

#[test]
fn scenarios() {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder()).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    let mut wrong = Vec::new();
    for file in files.iter().filter(|f| f.extension().is_some_and(|e| e == "txt")) {
        let text = std::fs::read_to_string(file).unwrap();
        let name = file.file_name().unwrap().to_string_lossy();
        let played = Played::of(&text);
        wrong.extend(played.broken.iter().map(|b| format!("{name}: {b}")));
        if std::env::var_os("UPDATE_SCENARIOS").is_some() {
            if played.text != text {
                std::fs::write(file, played.text).unwrap();
            }
        } else if let Some(difference) = difference(&text, &played.text) {
            wrong.push(format!("{name}: {difference}"));
        }
    }
    assert!(wrong.is_empty(), "{}\nUPDATE_SCENARIOS=1 writes expectations anew", wrong.join("\n"));
}

/// Every change of state that the scenarios make.
pub(crate) fn edges() -> Edges {
    let mut all = Edges::new();
    for entry in std::fs::read_dir(folder()).unwrap() {
        let file = entry.unwrap().path();
        if file.extension().is_some_and(|e| e == "txt") {
            all.extend(Played::of(&std::fs::read_to_string(file).unwrap()).edges);
        }
    }
    all
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios")
}

fn difference(old: &str, new: &str) -> Option<String> {
    let (mut title, mut number) = (String::new(), 0);
    let mut news = new.lines();
    for line in old.lines() {
        number += 1;
        if line.starts_with("===") {
            line.clone_into(&mut title);
        }
        let other = news.next().unwrap_or("(nothing)");
        if line != other {
            return Some(format!("line {number} in {title}\n  expected: {line}\n  it is:    {other}"));
        }
    }
    news.next().map(|extra| format!("at the end of {title}\n  it is: {extra}"))
}

/// A file with what its commands bring.
#[derive(Default)]
struct Played {
    text: String,
    edges: Edges,
    /// Cases that broke a rule of the bench; their text is kept as it was.
    broken: Vec<String>,
}

impl Played {
    fn of(text: &str) -> Self {
        let mut played = Self::default();
        let starts = text.match_indices("=== ").map(|(at, _)| at).filter(|at| *at == 0 || text[..*at].ends_with('\n'));
        let mut cuts: Vec<usize> = std::iter::once(0).chain(starts).chain([text.len()]).collect();
        cuts.dedup();
        for pair in cuts.windows(2) {
            let block = &text[pair[0]..pair[1]];
            let run = || run_case(block);
            match std::panic::catch_unwind(run) {
                Ok((new, edges)) => {
                    played.text.push_str(&new);
                    played.edges.extend(edges);
                }
                Err(cause) => {
                    let words = cause.downcast_ref::<String>().cloned().or(cause.downcast_ref::<&str>().map(|s| (*s).to_owned()));
                    let title = block.lines().next().unwrap_or_default();
                    played.broken.push(format!("{title} breaks a rule: {}", words.unwrap_or_default()));
                    played.text.push_str(block);
                }
            }
        }
        played
    }
}

/// One case with what its commands bring.
fn run_case(block: &str) -> (String, Edges) {
    let mut out = String::new();
    let mut case = Case::new();
    let mut lines = block.lines().peekable();
    let is_case = block.starts_with("===");
    while let Some(line) = lines.next() {
        out.push_str(line);
        out.push('\n');
        if line == "----" {
            out.push_str(&case.section());
            while lines.peek().is_some_and(|l| !l.trim().is_empty()) {
                lines.next();
            }
        } else if is_case && !line.trim().is_empty() && !line.starts_with('#') && !line.starts_with("===") {
            case.run_line(line);
        }
    }
    (out, case.bench.map(|b| b.edges).unwrap_or_default())
}

impl Case {
    fn new() -> Self {
        Self {
            plan: None,
            actions: (None, None),
            clusters: vec!["c1".into(), "c2".into(), "c3".into(), "c4".into()],
            settings: Settings::default(),
            seed: 1,
            slots: usize::MAX,
            bench: None,
            shown: Shown::default(),
            calls: Vec::new(),
            extra: String::new(),
        }
    }

    fn bench(&mut self) -> &mut Bench {
        self.bench.as_mut().expect("nothing is admitted yet")
    }

    fn section(&mut self) -> String {
        let calls = std::mem::take(&mut self.calls);
        let extra = std::mem::take(&mut self.extra);
        let bench = self.bench.as_ref().expect("nothing is admitted yet");
        format!("{extra}{}", show::section(bench, &mut self.shown, &calls))
    }

    fn run_line(&mut self, line: &str) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "plan" => self.plan = Some(rest.to_owned()),
            "plan-suspend" => self.actions.0 = Some(rest.to_owned()),
            "plan-reactivate" => self.actions.1 = Some(rest.to_owned()),
            "clusters" => self.clusters = rest.split_whitespace().map(str::to_owned).collect(),
            "hedge-after" => self.settings.hedge_after = span(rest),
            "retries" => self.settings.retry.max_retries = rest.parse().unwrap(),
            "deadline" => {
                let (operation, deadline) = rest.split_once(' ').unwrap();
                self.settings.deadlines.insert(operation.to_owned(), span(deadline));
            }
            "admit" => self.admit(rest),
            "launch" => {
                let calls = self.bench().launch();
                self.show(&calls);
            }
            "advance" => self.advance(),
            "answer" => self.answer(rest),
            "later" => self.later(rest),
            "sleep" => self.bench().now = self.bench().now.plus(span(rest)),
            "away" => {
                let bench = self.bench();
                (bench.now, bench.downtime) = (bench.now.plus(span(rest)), bench.downtime.plus(span(rest)));
            }
            "room" => self.bench().clusters.iter_mut().for_each(|c| c.full &= !rest.split(' ').any(|n| n == c.name)),
            "slots" => self.slots = rest.parse().unwrap(),
            "p95" => self.bench().record_steps(span(rest)),
            "full" => self.bench().clusters.iter_mut().for_each(|c| c.full |= rest.split(' ').any(|n| n == c.name)),
            "refuse-actions" => self.bench().plans.refuses_actions = rest == "on",
            "new" => {
                self.bench().new_generation();
                self.advance();
            }
            "restored" => {
                self.bench().restore();
                self.advance();
            }
            "steps" => self.extra.push_str(&show::steps(self.bench.as_ref().unwrap())),
            "names" => self.names(),
            "waits" => self.waits(),
            _ => self.command(word, rest),
        }
    }

    fn admit(&mut self, rest: &str) {
        let mut words = rest.split_whitespace();
        let kind = words.next().unwrap();
        let mut extra = json!({});
        for word in words {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            match key {
                "single" | "race" | "hedge" => extra["strategy"] = json!({"type": key}),
                "attempts" => {
                    let kind = extra["strategy"]["type"].as_str().unwrap_or("failover").to_owned();
                    extra["strategy"] = json!({"type": kind, "max_attempts": value.parse::<u32>().unwrap()});
                }
                "order" => extra["order_id"] = json!(value),
                "name" => extra["name"] = json!(value),
                "ttl" => extra["ttl_seconds"] = json!(span(value).as_seconds_f64()),
                "queue-timeout" => extra["queue_timeout_seconds"] = json!(span(value).as_seconds_f64()),
                _ => panic!("unknown option {word}"),
            }
        }
        let default = if kind == "managed" { MANAGED } else { VPS };
        let mut plans = Plans::of(self.plan.as_deref().unwrap_or(default));
        plans.suspend = self.actions.0.clone().unwrap_or(plans.suspend);
        plans.reactivate = self.actions.1.clone().unwrap_or(plans.reactivate);
        let clusters: Vec<&str> = self.clusters.iter().map(String::as_str).collect();
        let mut bench = Bench::admit(spec(kind, &extra), plans, &clusters, self.settings.clone(), self.seed);
        bench.clusters.iter_mut().for_each(|c| c.slots = self.slots);
        self.bench = Some(bench);
    }

    fn advance(&mut self) {
        let calls = self.bench().advance();
        self.show(&calls);
    }

    fn show(&mut self, calls: &[Call]) {
        let bench = self.bench.as_ref().expect("nothing is admitted yet");
        self.calls.extend(calls.iter().map(|c| show::call(bench, c)));
    }

    /// Time passes; at each time to wake it decides.
    fn later(&mut self, rest: &str) {
        let end = self.bench().now.plus(span(rest));
        for _ in 0..1000 {
            let wake = self.bench().wake_at;
            self.bench().now = wake.min(end).max(self.bench().now);
            self.advance();
            if self.bench().now >= end {
                return;
            }
        }
        panic!("a thousand times to wake in {rest}");
    }

    /// `answer CALL REPLY; CALL REPLY …`: all in one transaction.
    fn answer(&mut self, rest: &str) {
        let answers = rest.split("; ").map(|part| self.one_answer(part)).collect();
        let calls = self.bench().answer(answers);
        self.show(&calls);
    }

    fn one_answer(&mut self, part: &str) -> Answer {
        let (name, reply) = part.split_once(' ').unwrap_or_else(|| panic!("no reply in `{part}`"));
        let key = self.key(name);
        Answer { key, reply: read_reply(reply) }
    }

    /// A call in flight by its name; with `#number` any call of that name, answered or not.
    fn key(&self, name: &str) -> CallKey {
        let bench = self.bench.as_ref().unwrap();
        let Some((base, number)) = name.split_once('#') else {
            let found = bench.in_flight.keys().find(|k| show::key(bench, k) == name);
            return found.cloned().unwrap_or_else(|| panic!("no call {name} is in flight"));
        };
        let mut key = self.any_key(base);
        let n = number.parse().unwrap();
        match &mut key {
            CallKey::Operation { number, .. }
            | CallKey::Action { number, .. }
            | CallKey::Look { number, .. }
            | CallKey::Release { number, .. } => *number = n,
        }
        key
    }

    fn any_key(&self, base: &str) -> CallKey {
        let bench = self.bench.as_ref().unwrap();
        let mut all: Vec<CallKey> = Vec::new();
        for attempt in &bench.run.attempts {
            let keys =
                (0..attempt.operations.len()).map(|operation| CallKey::Operation { attempt: attempt.id, operation, number: 0 });
            all.extend(keys);
        }
        let actions = bench.run.action.as_ref().map_or(0, |a| a.operations.len());
        all.extend((0..actions).map(|operation| CallKey::Action { operation, number: 0 }));
        for row in &bench.run.ledger {
            all.push(CallKey::Look { row: row.id, number: 0 });
            all.push(CallKey::Release { row: row.id, number: 0 });
        }
        all.into_iter().find(|k| show::key(bench, k) == base).unwrap_or_else(|| panic!("there is no call {base}"))
    }

    fn row(&self, label: &str) -> ResourceId {
        let bench = self.bench.as_ref().unwrap();
        let found = bench.run.ledger.iter().find(|r| bench.row_label(r.id) == label);
        found.unwrap_or_else(|| panic!("there is no row {label}")).id
    }

    fn command(&mut self, word: &str, rest: &str) {
        let reason = (!rest.is_empty()).then(|| rest.to_owned());
        let command = match word {
            "cancel" => Command::Cancel { reason },
            "suspend" => Command::Suspend { reason },
            "reactivate" => Command::Reactivate { reason },
            "deprovision" => Command::Deprovision { reason, force: false },
            "manual-input" => Command::ManualInput(input(rest)),
            "write-off" => {
                let resources = rest.split_whitespace().map(|l| self.row(l)).collect();
                Command::WriteOff { resources, reason: "the backend is gone".into() }
            }
            "dependency-ended" => {
                let prerequisite = RequestId::new(Timestamp(0), &mut provisor_core::chance::SplitMix::new(5));
                Command::DependencyEnded { prerequisite }
            }
            "queue-timeout" => Command::QueueTimeout,
            "unplaceable" => Command::Unplaceable { rejected: vec![("c1".into(), "is in region us".into())] },
            _ => panic!("unknown command {word}"),
        };
        if let Err(refusal) = self.bench().command(command) {
            writeln!(self.extra, "refused: {} (allowed: {})", refusal.detail, refusal.allowed.join(", ")).unwrap();
        }
        self.advance();
    }

    /// The names of all rows, as far as they differ.
    fn names(&mut self) {
        let bench = self.bench.as_ref().unwrap();
        let names: BTreeSet<&str> = bench.run.ledger.iter().map(|r| r.name.as_str()).collect();
        let tags: BTreeSet<&str> = bench.run.ledger.iter().map(|r| r.tag.as_str()).collect();
        let fits = names.iter().all(|n| provisor_core::spec::is_dns_label(n));
        let rows = bench.run.ledger.len();
        let line = format!("{rows} rows, {} names, {} tags, labels of DNS: {fits}\n", names.len(), tags.len());
        self.extra.push_str(&line);
    }

    fn waits(&mut self) {
        for wait in &self.bench.as_ref().unwrap().run.waits {
            let line = format!("waited for {} {} to {}\n", wait.reason, show::time(wait.since), show::time(wait.until));
            self.extra.push_str(&line);
        }
    }
}

fn read_reply(text: &str) -> Reply {
    let words: Vec<&str> = text.split_whitespace().collect();
    match words[0] {
        "done" => Reply::Done(made(&words[1..])),
        "progress" => Reply::Progress(made(&words[1..])),
        "failed" => Reply::Failed(failed(&words[1..])),
        "timeout" => Reply::TimedOut { last_seen: None, diagnosis: Vec::new() },
        "looked" => Reply::Looked(words[1..].iter().filter(|w| **w != "none").map(|w| found(w)).collect()),
        "gone" => Reply::Gone { replaced: false },
        "replaced" => Reply::Gone { replaced: true },
        "dropped" => Reply::Dropped,
        other => panic!("unknown reply {other}"),
    }
}

fn made(words: &[&str]) -> Made {
    let mut made = Made::default();
    for word in words {
        match word.split_once('=').unwrap_or_else(|| panic!("`{word}` is not key=value")) {
            ("id", id) => made.provider_id = Some(id.to_owned()),
            ("uid", uid) => made.uid = Some(uid.to_owned()),
            (name, url) if url.contains("://") => made.endpoints.push(Endpoint { name: name.into(), url: url.into() }),
            (name, fact) => {
                made.facts.insert(name.into(), fact.into());
            }
        }
    }
    made
}

fn failed(words: &[&str]) -> Failure {
    let class: Class = serde_json::from_value(Value::from(words[0])).unwrap_or_else(|_| panic!("unknown class {}", words[0]));
    let mut failure = Failure::new(class, "told", "it was told to fail");
    for word in &words[1..] {
        failure = match word.split_once('=') {
            None if *word == "spoiled" => failure.spoiled(),
            Some(("after", wait)) => failure.after(span(wait)),
            _ => panic!("unknown word {word}"),
        };
    }
    failure
}

/// `id`, or `!id` for a spoiled one.
fn found(word: &str) -> Found {
    let provider_id = word.trim_start_matches('!').to_owned();
    let (kind, tag) = (String::new(), String::new());
    Found { kind, provider_id, uid: None, tag, age_seconds: None, spoiled: word.starts_with('!') }
}

/// `name=url … secret=…`
fn input(rest: &str) -> ManualInput {
    let pairs = rest.split_whitespace().map(|w| w.split_once('=').unwrap());
    let (secrets, endpoints): (Vec<_>, Vec<_>) = pairs.partition(|(k, _)| *k == "secret");
    let sealed = |s: &str| Sealed { key: "k".into(), sealed: s.into(), fingerprint: s.into() };
    ManualInput {
        endpoints: endpoints.into_iter().map(|(n, u)| Endpoint { name: n.into(), url: u.into() }).collect(),
        credentials: secrets.first().map(|(_, s)| sealed(s)),
    }
}

//! How progress is shown: bars on a terminal, one event a line elsewhere, JSON for programs.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use provisor_core::Timestamp;
use provisor_wire::Request;
use provisor_wire::client::Received;
use serde_json::json;

use crate::cli::view;
use crate::fail::Fail;
use crate::output::{Colour, Format, Out, clean, put, seconds};

/// More requests than this would push each other off the screen.
const MAX_BARS: usize = 20;

/// The ways to show it.
pub(crate) enum Show {
    /// Nothing.
    Silent,
    /// One event a line on standard output.
    Lines(Out),
    /// One event a line on standard error, beside a result that a program reads.
    Beside(Out),
    /// One event a line as JSON.
    Json(Out),
    /// A line for each request that changes in place.
    Bars(Box<Bars>),
}

/// Live lines.
pub(crate) struct Bars {
    out: Out,
    all: MultiProgress,
    lines: BTreeMap<String, ProgressBar>,
    name_width: usize,
    hidden: usize,
}

impl Show {
    /// For `watch`, whose result is the events.
    pub(crate) fn events(out: Out) -> Self {
        match out.format {
            Format::Json | Format::Yaml => Self::Json(out),
            Format::Table => Self::progress(out),
        }
    }

    /// For commands that have a result of their own and wait besides.
    pub(crate) fn progress(out: Out) -> Self {
        let terminal = std::io::stdout().is_terminal() && std::io::stderr().is_terminal();
        match out.format {
            _ if out.quiet => Self::Silent,
            Format::Json | Format::Yaml => Self::Beside(out),
            Format::Table if terminal => {
                let bars = Bars { out, all: MultiProgress::new(), lines: BTreeMap::new(), name_width: 0, hidden: 0 };
                Self::Bars(Box::new(bars))
            }
            Format::Table => Self::Lines(out),
        }
    }

    /// What is watched.
    pub(crate) fn begin(&mut self, requests: &[Request]) {
        if let Self::Bars(bars) = self {
            bars.begin(requests);
        }
    }

    /// An event came.
    pub(crate) fn event(&mut self, received: &Received) -> Result<(), Fail> {
        match self {
            Self::Silent | Self::Bars(_) => Ok(()),
            Self::Lines(out) => out.line(&view::received(*out, received)),
            Self::Json(out) => out.line(&json!(received.event).to_string()),
            Self::Beside(out) => {
                out.remark(&view::received(Out { colour: false, ..*out }, received));
                Ok(())
            }
        }
    }

    /// A request is known anew. `told`: events tell of it too, so that lines need nothing more.
    pub(crate) fn update(&mut self, request: &Request, changed: bool, told: bool) -> Result<(), Fail> {
        match self {
            Self::Bars(bars) => bars.update(request),
            Self::Lines(out) if changed && !told => return out.line(&state_line(*out, request)),
            Self::Beside(out) if changed && !told => out.remark(&state_line(Out { colour: false, ..*out }, request)),
            _ => {}
        }
        Ok(())
    }

    /// Time has passed.
    pub(crate) fn tick<'a>(&self, requests: impl Iterator<Item = &'a Request>) {
        if let Self::Bars(bars) = self {
            requests.for_each(|r| bars.update(r));
        }
    }

    /// Leaves the last picture standing.
    pub(crate) fn end(&mut self) {
        if let Self::Bars(bars) = self {
            bars.lines.values().for_each(ProgressBar::abandon);
        }
    }
}

fn state_line(out: Out, r: &Request) -> String {
    let waiting = view::waiting(r).map_or(String::new(), |w| format!("  waiting: {w}"));
    format!("{}  {}  {}{waiting}", crate::output::clock(&now().to_rfc3339()), clean(&r.name), out.state(&r.state))
}

#[allow(clippy::disallowed_methods)] // The wall clock is what people compare with.
fn now() -> Timestamp {
    let micros = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros());
    Timestamp(i64::try_from(micros).unwrap_or(0))
}

impl Bars {
    fn begin(&mut self, requests: &[Request]) {
        self.name_width = requests.iter().map(|r| r.name.chars().count()).max().unwrap_or(0);
        self.hidden = requests.len().saturating_sub(MAX_BARS);
        for request in requests.iter().take(MAX_BARS) {
            let bar = self.all.add(ProgressBar::new_spinner());
            if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg}") {
                bar.set_style(style.tick_chars("⠁⠂⠄⡀⢀⠠⠐⠈ "));
            }
            bar.enable_steady_tick(Duration::from_millis(120));
            self.lines.insert(request.id.clone(), bar);
            self.update(request);
        }
        if self.hidden > 0 {
            let bar = self.all.add(ProgressBar::new_spinner());
            bar.set_message(format!("… and {} more", self.hidden));
            self.lines.insert(String::new(), bar);
        }
    }

    fn update(&self, request: &Request) {
        if let Some(bar) = self.lines.get(&request.id) {
            bar.set_message(line(self.out, request, self.name_width, now()));
        }
    }
}

/// One request on a line: name, state, its steps, attempt, waiting reason, elapsed time.
pub(crate) fn line(out: Out, r: &Request, name_width: usize, now: Timestamp) -> String {
    let steps: Vec<String> = r.steps.iter().map(|s| step(out, &s.name, &s.status)).collect();
    let mut text = format!("{:name_width$}  {}{}  {}", clean(&r.name), out.state(&r.state), pad(&r.state, 12), steps.join(" "));
    let attempt = r.attempts.iter().rev().find(|a| r.winner.as_deref().map_or(a.state == "running", |w| a.id == w));
    if let Some(attempt) = attempt {
        let number = if attempt.number > 1 { format!("attempt {} ", attempt.number) } else { String::new() };
        put(&mut text, format_args!("  {number}on {}", attempt.cluster));
    }
    if let Some(waiting) = view::waiting(r) {
        put(&mut text, format_args!("  {}", out.paint(Colour::Yellow, &format!("waiting: {waiting}"))));
    }
    let end = r.ready_at.as_deref().or(r.terminated_at.as_deref()).and_then(Timestamp::parse).unwrap_or(now);
    let begin = Timestamp::parse(&r.created_at).unwrap_or(end);
    text + &format!("  {}", out.paint(Colour::Dim, &seconds(end.since(begin).as_seconds_f64())))
}

fn pad(text: &str, width: usize) -> String {
    " ".repeat(width.saturating_sub(text.chars().count()))
}

fn step(out: Out, name: &str, status: &str) -> String {
    match status {
        "succeeded" => out.paint(Colour::Green, &format!("✔{name}")),
        "running" => out.paint(Colour::Bold, &format!("▶{name}")),
        "waiting" => out.paint(Colour::Yellow, &format!("⏸{name}")),
        "failed" => out.paint(Colour::Red, &format!("✘{name}")),
        _ => out.paint(Colour::Dim, &format!("·{name}")),
    }
}

//! What happened, line by line, for the comparison of two runs of one seed and for who reads a failing one.

/// How much of a run is kept.
#[derive(Debug)]
pub enum Trace {
    /// Nothing: for speed.
    Off,
    /// Every line.
    Lines(Vec<String>),
}

/// Lines that a trace keeps; a run that needs more is not one to read.
const LINES_AT_MOST: usize = 2_000_000;

impl Trace {
    /// A trace that keeps every line.
    pub fn on() -> Self {
        Self::Lines(Vec::new())
    }

    pub(crate) fn note(&mut self, micros: u128, line: impl FnOnce() -> String) {
        if let Self::Lines(lines) = self
            && lines.len() < LINES_AT_MOST
        {
            lines.push(format!("{:>12.3} {}", ms(micros), line()));
        }
    }

    /// The lines.
    pub fn lines(&self) -> &[String] {
        match self {
            Self::Off => &[],
            Self::Lines(lines) => lines,
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "for people")]
fn ms(micros: u128) -> f64 {
    micros as f64 / 1000.0
}

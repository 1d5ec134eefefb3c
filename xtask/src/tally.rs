//! Counting tests from what the test harness prints.

use std::ops::AddAssign;

/// How many tests passed, failed and were not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tally {
    /// Passed.
    pub(crate) passed: u64,
    /// Failed.
    pub(crate) failed: u64,
    /// Ignored, or could not be run on this machine.
    pub(crate) skipped: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// The sum of all `test result:` lines; `None` where there is none, as when a binary died.
pub(crate) fn count(lines: &[String]) -> Option<Tally> {
    let mut sum = None;
    for line in lines {
        if let Some((_, rest)) = line.split_once("test result: ") {
            *sum.get_or_insert_with(Tally::default) += of(rest);
        }
    }
    sum
}

/// `ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.00s`; what a filter left out is
/// counted by the stage that runs it.
fn of(rest: &str) -> Tally {
    let figure = |word: &str| {
        let part = rest.split(['.', ';']).map(str::trim).find(|part| part.ends_with(word));
        part.and_then(|part| part.split(' ').next()).and_then(|n| n.parse().ok()).unwrap_or(0)
    };
    Tally { passed: figure(" passed"), failed: figure(" failed"), skipped: figure(" ignored") }
}

/// The number of tests that `--list` names.
pub(crate) fn listed(lines: &[String]) -> u64 {
    lines.iter().filter(|line| line.ends_with(": test")).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_added_up() {
        let lines = [
            "running 4 tests".to_owned(),
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 7 filtered out; finished in 0.10s".to_owned(),
            "test result: FAILED. 10 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s".to_owned(),
        ];
        let sum = count(&lines).expect("results");
        assert_eq!(sum, Tally { passed: 13, failed: 2, skipped: 1 });
        assert_eq!(sum.to_string(), "13 passed, 2 failed, 1 skipped");
    }

    #[test]
    fn a_binary_that_died_has_no_result() {
        assert_eq!(count(&["running 4 tests".to_owned()]), None);
    }

    #[test]
    fn a_list_names_tests() {
        let lines = ["a::b: test".to_owned(), "c: benchmark".to_owned(), String::new(), "1 test, 1 benchmark".to_owned()];
        assert_eq!(listed(&lines), 1);
    }
}

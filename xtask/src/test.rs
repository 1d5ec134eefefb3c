//! `cargo xtask test`: every test there is, in stages, and one count at the end.
//!
//! Stages: *fast* needs nothing but this checkout, and *processes* no more than the binary besides; *services* brings up a real PostgreSQL and a real OpenStack and
//! takes them down again; *chaos* kills and signals the real binary. Where a machine cannot have a service its tests are
//! skipped, said so and counted; CI (`CI=true`) takes that for a failure.

use std::time::{Duration, Instant};

use crate::process::{Show, run as run_child};
use crate::services::{Lease, Service};
use crate::shell::{Done, Failed, complain, is_ci, say, timed};
use crate::suite::{self, Binary, Pick, Stage};
use crate::tally::{Tally, count, listed};

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    fast: bool,
    services: bool,
    chaos: bool,
    packages: Vec<String>,
    show: Show,
}

fn asked(options: &[&str]) -> Done<Asked> {
    let mut asked = Asked { fast: false, services: false, chaos: false, packages: Vec::new(), show: Show::Nothing };
    let mut options = options.iter();
    while let Some(option) = options.next() {
        match *option {
            "--fast" => asked.fast = true,
            "--services" => asked.services = true,
            "--chaos" => asked.chaos = true,
            "-p" | "--package" => match options.next() {
                Some(package) => asked.packages.push((*package).to_owned()),
                None => return Err(Failed::new("-p PACKAGE")),
            },
            "-v" | "--verbose" => asked.show = Show::Everything,
            other => return Err(Failed::new(format!("unknown option {other}"))),
        }
    }
    if !(asked.fast || asked.services || asked.chaos) {
        (asked.fast, asked.services, asked.chaos) = (true, true, true);
    }
    Ok(asked)
}

/// Runs the stages asked for; fails if a test failed, or where CI would have had to skip.
pub(crate) fn run(options: &[&str]) -> Done {
    let asked = asked(options)?;
    let mut report = Report { show: asked.show, tally: Tally::default(), broken: Vec::new(), skips: Vec::new() };
    let built = timed("build", || suite::build(&asked.packages));
    match built {
        Ok(binaries) => stages(&asked, &binaries, &mut report),
        Err(failed) => report.break_off("build", &failed),
    }
    report.end()
}

fn stages(asked: &Asked, binaries: &[Binary], report: &mut Report) {
    if asked.fast {
        let done = timed("fast", || fast(asked, binaries, report));
        report.note("fast", done);
        let done = timed("processes", || run_special(binaries, report, Stage::Processes, &[]));
        report.note("processes", done);
    }
    if asked.services {
        for service in [Service::Postgres, Service::Openstack] {
            let done = timed(service.name(), || against(service, binaries, report));
            report.note(service.name(), done);
        }
    }
    if asked.chaos {
        let done = timed("chaos", || chaos(asked, binaries, report));
        report.note("chaos", done);
    }
}

/// Unit and integration tests that need no service, and the examples in the documentation.
fn fast(asked: &Asked, binaries: &[Binary], report: &mut Report) -> Done {
    for binary in binaries {
        let left_out: Vec<&str> = suite::special_of(binary).map(|s| s.tests).collect();
        if !left_out.contains(&"") {
            report.run(binary, Pick::Without(&left_out), &[])?;
        }
    }
    let start = Instant::now();
    if !binaries.iter().any(|binary| binary.target == "lib") {
        return Ok(()); // cargo refuses to look for examples where there can be none
    }
    let mut command = suite::cargo_test(&asked.packages);
    command.args(["--doc", "--quiet"]);
    let ended = run_child(command, report.show, Duration::from_mins(30))?;
    report.take("doc examples", &ended, start);
    Ok(())
}

/// What only a real service can prove.
fn against(service: Service, binaries: &[Binary], report: &mut Report) -> Done {
    let stage = Stage::Service(service);
    if of_stage(binaries, stage).next().is_none() {
        return run_special(binaries, report, stage, &[]);
    }
    if let Some(why) = service.unavailable() {
        return skip(binaries, report, stage, &format!("{}: {why}", service.name()));
    }
    let (lease, mut env) = Lease::take(service)?;
    env.push(("PROVISOR_TEST_REQUIRE_SERVICES".to_owned(), "1".to_owned()));
    let ran = run_special(binaries, report, stage, &env);
    lease.give_back().and(ran)
}

/// Kill -9, SIGTERM and whatever else the product must survive. Further kinds (a simulator's seeds, say) go
/// here.
fn chaos(asked: &Asked, binaries: &[Binary], report: &mut Report) -> Done {
    run_special(binaries, report, Stage::Chaos, &[])?;
    if asked.packages.is_empty() || asked.packages.iter().any(|p| p == "provisor") {
        let start = Instant::now();
        let done = crate::chaos::small();
        report.one("a small chaos run", &done, start);
    }
    Ok(())
}

fn of_stage(binaries: &[Binary], stage: Stage) -> impl Iterator<Item = (&Binary, Pick<'static>)> {
    binaries.iter().flat_map(move |binary| {
        let here = suite::special_of(binary).filter(move |s| s.stage == stage);
        here.map(move |s| (binary, Pick::Only(s.tests)))
    })
}

fn run_special(binaries: &[Binary], report: &mut Report, stage: Stage, env: &[(String, String)]) -> Done {
    let mut any = false;
    for (binary, pick) in of_stage(binaries, stage) {
        report.run(binary, pick, env)?;
        any = true;
    }
    if !any {
        say("   no tests");
    }
    Ok(())
}

/// Counts the tests of a stage that cannot run here.
fn skip(binaries: &[Binary], report: &mut Report, stage: Stage, why: &str) -> Done {
    for (binary, pick) in of_stage(binaries, stage) {
        let tests = listed(&binary.list(pick)?.stdout);
        report.tally.skipped += tests;
        report.skips.push(format!("{} {}: {tests} tests: {why}", binary.package, binary.target));
    }
    if is_ci() {
        return Err(Failed::new(format!("CI must not skip: {why}")));
    }
    Ok(())
}

/// What came of it so far.
struct Report {
    show: Show,
    tally: Tally,
    broken: Vec<String>,
    skips: Vec<String>,
}

impl Report {
    fn run(&mut self, binary: &Binary, pick: Pick<'_>, env: &[(String, String)]) -> Done {
        let start = Instant::now();
        let ended = binary.run(pick, env, self.show)?;
        self.take(&format!("{} {}", binary.package, binary.target), &ended, start);
        Ok(())
    }

    /// Takes in one run; shows all that a failed one printed.
    fn take(&mut self, name: &str, ended: &crate::process::Ended, start: Instant) {
        let counted = count(&ended.stdout);
        let mut tally = counted.unwrap_or_default();
        if !ended.ok && tally.failed == 0 {
            // It died before it could count: as long as nobody knows how many, one.
            tally.failed = 1;
        }
        if !ended.ok {
            self.broken.push(name.to_owned());
            if self.show == Show::Nothing {
                ended.all.iter().for_each(|line| complain(line));
            }
        }
        let tests = tally.passed + tally.failed + tally.skipped;
        if tests > 0 {
            say(&format!("   {name}: {tally}, {:.1} s", start.elapsed().as_secs_f64()));
        }
        self.tally += tally;
    }

    /// Takes in something that counts as one test.
    fn one(&mut self, name: &str, done: &Done, start: Instant) {
        let tally = Tally { passed: u64::from(done.is_ok()), failed: u64::from(done.is_err()), ..Tally::default() };
        if let Err(failed) = done {
            complain(failed.message());
            self.broken.push(name.to_owned());
        }
        say(&format!("   {name}: {tally}, {:.1} s", start.elapsed().as_secs_f64()));
        self.tally += tally;
    }

    fn note(&mut self, stage: &str, done: Done) {
        if let Err(failed) = done {
            self.break_off(stage, &failed);
        }
    }

    fn break_off(&mut self, stage: &str, failed: &Failed) {
        complain(&format!("{stage}: {}", failed.message()));
        self.broken.push(stage.to_owned());
    }

    /// Says what was skipped and what failed, and the count alone on the last line.
    fn end(self) -> Done {
        self.skips.iter().for_each(|line| say(&format!("skipped: {line}")));
        self.broken.iter().for_each(|name| say(&format!("FAILED: {name}")));
        say(&self.tally.to_string());
        if self.broken.is_empty() { Ok(()) } else { Err(Failed::new("")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_stage_all_are_run() {
        let all = asked(&["-v"]).expect("options");
        assert!(all.fast && all.services && all.chaos && all.show == Show::Everything);
        let one = asked(&["--fast", "-p", "provisor-core"]).expect("options");
        assert_eq!(one.packages, ["provisor-core"]);
        assert!(one.fast && !one.services && !one.chaos);
        assert!(asked(&["--slow"]).is_err());
    }
}

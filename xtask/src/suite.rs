//! The tests of the workspace: built once, and told apart by the stage that runs them.
//!
//! `cargo test --no-run` names every test binary; we run them ourselves, so that one build serves all
//! stages, each binary has a time limit, and a test that needs a service is counted as skipped where the
//! service cannot be had, instead of passing without having looked.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::process::{Ended, Show, run};
use crate::services::Service;
use crate::shell::{Done, Failed, cargo, root, say};

/// Longest time that one test binary may take.
const BINARY_LIMIT: Duration = Duration::from_mins(20);

/// Tests that are not run by the fast stage.
#[derive(Debug)]
pub(crate) struct Special {
    /// The stage that runs them.
    pub(crate) stage: Stage,
    /// Their package.
    pub(crate) package: &'static str,
    /// Their test binary.
    pub(crate) target: &'static str,
    /// Their names contain this; empty for all of the binary.
    pub(crate) tests: &'static str,
}

/// When tests run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The binary as its users start it, on this machine alone.
    Processes,
    /// Against a real service.
    Service(Service),
    /// Kills, signals, simulated faults: slow, and hard on the machine.
    Chaos,
}

/// Everything that is not fast. A new kind of slow test is a line here.
pub(crate) const SPECIAL: &[Special] = &[
    Special { stage: Stage::Processes, package: "provisor", target: "it", tests: "apply::" },
    Special { stage: Stage::Processes, package: "provisor", target: "it", tests: "disk::" },
    Special { stage: Stage::Processes, package: "provisor", target: "it", tests: "failover::" },
    Special { stage: Stage::Processes, package: "provisor", target: "it", tests: "lifecycle::" },
    Special { stage: Stage::Processes, package: "provisor", target: "it", tests: "managed::" },
    Special { stage: Stage::Processes, package: "provisor", target: "it", tests: "process::" },
    Special { stage: Stage::Processes, package: "provisor", target: "it", tests: "quickstart::" },
    Special { stage: Stage::Processes, package: "provisor", target: "it", tests: "refusals::" },
    Special { stage: Stage::Processes, package: "provisor", target: "it", tests: "restore::" },
    Special { stage: Stage::Processes, package: "provisor", target: "it", tests: "timeline::" },
    Special { stage: Stage::Service(Service::Postgres), package: "provisor-store", target: "it", tests: "postgres" },
    Special { stage: Stage::Service(Service::Postgres), package: "provisor-engine", target: "it", tests: "postgres::" },
    Special { stage: Stage::Service(Service::Postgres), package: "provisor", target: "it", tests: "postgres::" },
    Special { stage: Stage::Service(Service::Postgres), package: "provisor", target: "it", tests: "processes::" },
    Special { stage: Stage::Service(Service::Postgres), package: "provisor", target: "it", tests: "writers::" },
    Special { stage: Stage::Service(Service::Openstack), package: "provisor-openstack", target: "it", tests: "cloud::" },
    Special { stage: Stage::Service(Service::Openstack), package: "provisor", target: "it", tests: "openstack::" },
    Special { stage: Stage::Chaos, package: "provisor", target: "it", tests: "recovery::" },
    Special { stage: Stage::Chaos, package: "provisor", target: "it", tests: "race::" },
    Special { stage: Stage::Chaos, package: "provisor-engine", target: "it", tests: "crash::sqlite::" },
    Special { stage: Stage::Chaos, package: "provisor-sim", target: "it", tests: "many::" },
    Special { stage: Stage::Chaos, package: "provisor-engine", target: "it", tests: "lives::" },
];

/// A test binary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Binary {
    /// Its package.
    pub(crate) package: String,
    /// `lib`, `bin` or the name of an integration test.
    pub(crate) target: String,
    executable: PathBuf,
    folder: PathBuf,
}

/// Which tests of a binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pick<'a> {
    /// All but those whose names contain one of these.
    Without(&'a [&'static str]),
    /// Those whose names contain it; all where it is empty.
    Only(&'static str),
}

/// `cargo test` for some packages, or for all where none is named.
pub(crate) fn cargo_test(packages: &[String]) -> Command {
    let mut command = Command::new(cargo());
    command.current_dir(root()).arg("test");
    for package in packages {
        command.args(["--package", package]);
    }
    if packages.is_empty() {
        command.arg("--workspace");
    }
    command
}

/// Builds the tests and names their binaries, in order of package and target.
pub(crate) fn build(packages: &[String]) -> Done<Vec<Binary>> {
    let mut command = cargo_test(packages);
    command.args(["--no-run", "--quiet", "--message-format=json-render-diagnostics"]);
    let ended = run(command, Show::Nothing, Duration::from_hours(1))?;
    if !ended.ok {
        let told = ended.all.iter().filter(|line| !line.starts_with('{')).cloned().collect::<Vec<_>>();
        return Err(Failed::new(format!("the tests do not build\n{}", told.join("\n"))));
    }
    let mut all: Vec<Binary> = ended.stdout.iter().filter_map(|line| binary(line)).collect();
    all.sort_by(|a, b| (&a.package, &a.target).cmp(&(&b.package, &b.target)));
    all.dedup();
    Ok(all)
}

/// The test binary that a message of cargo is about.
fn binary(message: &str) -> Option<Binary> {
    let message: Value = serde_json::from_str(message).ok()?;
    if message.get("reason")? != "compiler-artifact" || message.pointer("/profile/test")? != true {
        return None;
    }
    let executable = PathBuf::from(message.get("executable")?.as_str()?);
    let folder = Path::new(message.get("manifest_path")?.as_str()?).parent()?.to_owned();
    let kind = message.pointer("/target/kind/0")?.as_str()?;
    let name = message.pointer("/target/name")?.as_str()?;
    let target = if kind == "test" { name } else { kind }.to_owned();
    Some(Binary { package: package_of(message.get("package_id")?.as_str()?)?, target, executable, folder })
}

/// `path+file:///…/core#provisor-core@0.1.0` or `path+file:///…/xtask#0.1.0`.
fn package_of(id: &str) -> Option<String> {
    let (path, name) = id.rsplit_once('#')?;
    let named = name.split_once('@').map(|(name, _)| name);
    named.or_else(|| path.rsplit('/').next()).map(str::to_owned)
}

/// The parts of a binary that other stages run.
pub(crate) fn special_of(binary: &Binary) -> impl Iterator<Item = &'static Special> {
    let (package, target) = (binary.package.clone(), binary.target.clone());
    SPECIAL.iter().filter(move |s| s.package == package && s.target == target)
}

impl Binary {
    /// Runs tests of it.
    pub(crate) fn run(&self, pick: Pick<'_>, env: &[(String, String)], show: Show) -> Done<Ended> {
        if show == Show::Everything {
            say(&format!("-- {} {}", self.package, self.target));
        }
        let mut command = self.command(pick);
        command.envs(env.iter().map(|(k, v)| (k, v)));
        run(command, show, BINARY_LIMIT)
    }

    /// Names the tests without running them.
    pub(crate) fn list(&self, pick: Pick<'_>) -> Done<Ended> {
        let mut command = self.command(pick);
        command.arg("--list");
        run(command, Show::Nothing, BINARY_LIMIT)
    }

    fn command(&self, pick: Pick<'_>) -> Command {
        let mut command = Command::new(&self.executable);
        command.current_dir(&self.folder);
        command.env("CARGO_MANIFEST_DIR", &self.folder).env("CARGO_PKG_NAME", &self.package);
        // A cloud that happens to be in the environment is nobody's test bed.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("OS_")) {
            command.env_remove(name);
        }
        match pick {
            Pick::Without(names) => names.iter().for_each(|name| {
                command.args(["--skip", name]);
            }),
            Pick::Only("") => {}
            Pick::Only(name) => {
                command.arg(name);
            }
        }
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_ids_of_both_forms_are_read() {
        assert_eq!(package_of("path+file:///home/a/crates/core#provisor-core@0.1.0").as_deref(), Some("provisor-core"));
        assert_eq!(package_of("path+file:///home/a/xtask#0.1.0").as_deref(), Some("xtask"));
    }

    #[test]
    fn only_test_binaries_are_taken() {
        let artifact = |test: bool, kind: &str| {
            serde_json::json!({"reason": "compiler-artifact", "package_id": "path+file:///a/provisor#0.1.0",
                "manifest_path": "/a/provisor/Cargo.toml", "target": {"kind": [kind], "name": "it"},
                "profile": {"test": test}, "executable": "/a/target/it"})
            .to_string()
        };
        assert_eq!(binary(&artifact(false, "bin")), None);
        assert_eq!(binary(r#"{"reason":"build-finished","success":true}"#), None);
        assert_eq!(binary(&artifact(true, "test")).map(|b| b.target).as_deref(), Some("it"));
        assert_eq!(binary(&artifact(true, "lib")).map(|b| b.target).as_deref(), Some("lib"));
    }
}

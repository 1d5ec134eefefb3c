//! `cargo xtask openstack`: what is too long for every run of the tests, against the real control plane.
//!
//! The shows are tests like the others, but ignored by default, so that they share the helpers of those that always
//! run; here they are run alone and one after the other, since they turn the knobs of one cloud.

use std::process::Command;

use crate::process::must;
use crate::services::{Lease, Service};
use crate::shell::{Done, Failed, cargo, root, say};

/// Packages with shows, and where these stand in the test binary `it`.
const SHOWS: [(&str, &str); 2] = [("provisor-openstack", "cloud::"), ("provisor", "openstack::")];

/// `shows [NAME]` or `record`.
pub(crate) fn run(words: &[&str]) -> Done {
    let picked: Vec<(&str, String)> = match words {
        ["shows"] => SHOWS.iter().map(|(package, tests)| (*package, (*tests).to_owned())).collect(),
        ["shows", name] => SHOWS.iter().map(|(package, _)| (*package, (*name).to_owned())).collect(),
        ["record"] => vec![("provisor-openstack", "record::record".to_owned())],
        _ => return Err(Failed::new("openstack shows [NAME], or openstack record")),
    };
    let (lease, env) = Lease::take(Service::Openstack)?;
    let ran = picked.iter().try_fold((), |(), (package, tests)| {
        say(&format!("{package}: {tests}"));
        let mut command = Command::new(cargo());
        command.current_dir(root()).args(["test", "--package", package, "--test", "it", "--"]);
        command.args(["--ignored", "--nocapture", "--test-threads=1", tests]).envs(env.iter().cloned());
        command.env("PROVISOR_TEST_REQUIRE_SERVICES", "1");
        must(command)
    });
    lease.give_back().and(ran)
}

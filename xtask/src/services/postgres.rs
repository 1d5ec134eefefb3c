//! A PostgreSQL server: the one that `PROVISOR_TEST_POSTGRES_URL` names, or that of `testbeds/postgres`.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use super::{Env, evaluate};
use crate::process::must;
use crate::shell::{Done, Failed, complain, root};

const URL: &str = "PROVISOR_TEST_POSTGRES_URL";

/// The server that whoever started us has, in their own care.
fn given() -> Option<Env> {
    let url = std::env::var(URL).ok().filter(|url| !url.is_empty())?;
    Some(vec![(URL.to_owned(), url)])
}

fn script() -> PathBuf {
    root().join("testbeds/postgres/up.sh")
}

fn ask(argument: Option<&str>) -> Done<Output> {
    let output = Command::new(script()).args(argument).stdin(Stdio::null()).output();
    output.map_err(|e| Failed::new(format!("testbeds/postgres/up.sh: {e}")))
}

/// Why this machine cannot have one, if it cannot. Installs the server's programs where that is what is missing.
pub(super) fn unavailable() -> Option<String> {
    if given().is_some() {
        return None;
    }
    let told = match ask(Some("--programs")) {
        Ok(output) if output.status.success() => return None,
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().lines().last().unwrap_or_default().to_owned(),
        Err(failed) => failed.message().to_owned(),
    };
    Some(told)
}

pub(super) fn up() -> Done<Env> {
    if let Some(env) = given() {
        return Ok(env);
    }
    let output = ask(None)?;
    if output.status.success() {
        return evaluate(&String::from_utf8_lossy(&output.stdout));
    }
    let told = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Failed::new(format!("testbeds/postgres/up.sh failed: {told}")))
}

/// The settings of one that is up.
pub(super) fn env() -> Done<Env> {
    if let Some(env) = given() {
        return Ok(env);
    }
    let output = ask(Some("--env"))?;
    if !output.status.success() {
        return Err(Failed::new("postgres is not up: cargo xtask services up postgres"));
    }
    evaluate(&String::from_utf8_lossy(&output.stdout))
}

pub(super) fn down() -> Done {
    complain("testbeds/postgres/up.sh --down");
    let mut command = Command::new(script());
    command.arg("--down");
    must(command)
}

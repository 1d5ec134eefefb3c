//! Real services for tests: starting, stopping, and their settings as `KEY=VALUE`.
//!
//! The scripts in `testbeds/` do the work; they are idempotent and stop only what they recorded. Rejected:
//! containers (not to be had everywhere that the tests run) and a cloud that happens to be in the
//! environment (it may be somebody's).

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::process::must;
use crate::shell::{Done, Failed, complain, read, root, say};

/// `cargo xtask services up|down|env openstack`.
pub(crate) fn run(command: &str, name: &str) -> Done {
    if name != "openstack" {
        return Err(Failed::new(format!("no service {name}; there is: openstack")));
    }
    match command {
        "up" => show(&up()?),
        "env" => show(&env()?),
        "down" => down()?,
        other => return Err(Failed::new(format!("services {other}? up, down or env"))),
    }
    Ok(())
}

fn show(env: &[(String, String)]) {
    for (key, value) in env {
        say(&format!("{key}={value}"));
    }
}

/// A running OpenStack, to be given back.
pub(crate) struct Lease {
    was_up: bool,
}

impl Lease {
    /// Brings it up where it is not, and answers its settings.
    pub(crate) fn take() -> Done<(Self, Vec<(String, String)>)> {
        let lease = Self { was_up: answers() };
        match up() {
            Ok(env) => Ok((lease, env)),
            Err(failed) => {
                let _ = lease.give_back().inspect_err(Failed::tell);
                Err(failed)
            }
        }
    }

    /// Takes it down again if it was not up before.
    pub(crate) fn give_back(self) -> Done {
        if self.was_up { Ok(()) } else { down() }
    }
}

/// Why this machine cannot have an OpenStack, if it cannot.
pub(crate) fn unavailable() -> Option<String> {
    if answers() {
        return None;
    }
    let status = read(Path::new("/proc/self/status")).unwrap_or_default();
    if !status.lines().any(|line| line.starts_with("Uid:") && line.split_whitespace().nth(2) == Some("0")) {
        return Some("its test bed needs root".to_owned());
    }
    let release = read(Path::new("/etc/os-release")).unwrap_or_default();
    let has = |wanted: &str| release.lines().any(|line| line.replace('"', "") == wanted);
    if !(has("ID=debian") && has("VERSION_ID=12")) {
        return Some("its test bed needs the packages of Debian 12".to_owned());
    }
    let memory = read(Path::new("/proc/meminfo")).unwrap_or_default();
    let available = memory.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = available.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(u64::MAX);
    (kib < 3 * 1024 * 1024).then(|| "its test bed needs 3 GiB of free memory".to_owned())
}

/// Whether its Keystone is listening.
fn answers() -> bool {
    let port = std::env::var("OSTB_PORT_KEYSTONE").ok().and_then(|port| port.parse().ok()).unwrap_or(15000);
    TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], port)), Duration::from_secs(2)).is_ok()
}

fn script(name: &str) -> PathBuf {
    root().join("testbeds/openstack").join(name)
}

fn up() -> Done<Vec<(String, String)>> {
    let mut command = Command::new(script("up.sh"));
    if std::env::var_os("OSTB_SEED").is_none() {
        command.env("OSTB_SEED", own_seed()?);
    }
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.map_err(|e| Failed::new(format!("testbeds/openstack/up.sh: {e}")))?;
    if !output.status.success() {
        return Err(Failed::new("testbeds/openstack/up.sh failed; without it: cargo xtask test --fast --chaos"));
    }
    evaluate(&String::from_utf8_lossy(&output.stdout))
}

/// A copy of the seed beside the state: up.sh writes a new one where package versions or ports differ, and running
/// tests must not change the checkout.
fn own_seed() -> Done<PathBuf> {
    let mut name = state()?.into_os_string();
    name.push(".seed.sql.gz");
    let seed = PathBuf::from(name);
    if !seed.exists() {
        let folder = seed.parent().unwrap_or(&seed);
        let copied = std::fs::create_dir_all(folder).and_then(|()| std::fs::copy(script("seed.sql.gz"), &seed));
        copied.map_err(|e| Failed::new(format!("{}: {e}", seed.display())))?;
    }
    Ok(seed)
}

fn down() -> Done {
    complain("testbeds/openstack/down.sh");
    let mut command = Command::new(script("down.sh"));
    command.stdout(Stdio::null());
    must(command)
}

/// The settings of one that is up.
fn env() -> Done<Vec<(String, String)>> {
    let path = state()?.join("openrc");
    if !answers() || !path.exists() {
        return Err(Failed::new("openstack is not up: cargo xtask services up openstack"));
    }
    evaluate(&read(&path)?)
}

/// Where the test bed keeps what it writes.
fn state() -> Done<PathBuf> {
    let state = std::env::var_os("OSTB_STATE").map(PathBuf::from).or_else(default_state);
    state.ok_or_else(|| Failed::new("neither OSTB_STATE nor HOME is set"))
}

fn default_state() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))?;
    Some(cache.join("provisor-testbeds/openstack"))
}

/// What a script of `export` lines sets, by the shell itself: its quoting is the shell's business.
fn evaluate(exports: &str) -> Done<Vec<(String, String)>> {
    let mut shell = Command::new("bash");
    shell.args(["--noprofile", "--norc", "-c", "eval \"$0\"; env -0", exports]);
    shell.env_clear().env("PATH", "/usr/bin:/bin").stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = shell.output().map_err(|e| Failed::new(format!("bash: {e}")))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let pairs = text.split('\0').filter_map(|pair| pair.split_once('='));
    let own = |key: &str| matches!(key, "PATH" | "PWD" | "OLDPWD" | "SHLVL" | "_");
    let env: Vec<(String, String)> = pairs.filter(|(k, _)| !own(k)).map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    if env.is_empty() { Err(Failed::new("the service told no settings")) } else { Ok(env) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exports_are_read_with_their_quotes() {
        let env = evaluate("export OS_A=one OS_B='two words'\nexport OS_C=three\n").expect("settings");
        let want = [("OS_A", "one"), ("OS_B", "two words"), ("OS_C", "three")];
        let mut got: Vec<(&str, &str)> = env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        got.sort_unstable();
        assert_eq!(got, want);
    }
}

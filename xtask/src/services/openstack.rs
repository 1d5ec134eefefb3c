//! A real OpenStack: the control plane of `testbeds/openstack`.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::{Env, evaluate};
use crate::process::must;
use crate::shell::{Done, Failed, complain, read, root};

/// Why this machine cannot have an OpenStack, if it cannot.
pub(super) fn unavailable() -> Option<String> {
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
pub(super) fn answers() -> bool {
    let port = std::env::var("OSTB_PORT_KEYSTONE").ok().and_then(|port| port.parse().ok()).unwrap_or(15000);
    TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], port)), Duration::from_secs(2)).is_ok()
}

fn script(name: &str) -> PathBuf {
    root().join("testbeds/openstack").join(name)
}

pub(super) fn up() -> Done<Env> {
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

pub(super) fn down() -> Done {
    complain("testbeds/openstack/down.sh");
    let mut command = Command::new(script("down.sh"));
    command.stdout(Stdio::null());
    must(command)
}

/// The settings of one that is up.
pub(super) fn env() -> Done<Env> {
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

//! Real services for tests: starting, stopping, and their settings as `KEY=VALUE`.
//!
//! The scripts in `testbeds/` do the work; they are idempotent and stop only what they recorded. Rejected:
//! containers (not to be had everywhere that the tests run) and a cloud that happens to be in the
//! environment (it may be somebody's).

use std::process::{Command, Stdio};

use crate::shell::{Done, Failed, say};

mod openstack;
mod postgres;

/// A real service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    /// A whole control plane, with hypervisors that only pretend.
    Openstack,
    /// A database server; the one of `PROVISOR_TEST_POSTGRES_URL` where that is set.
    Postgres,
}

/// What is set for its tests.
pub(crate) type Env = Vec<(String, String)>;

impl Service {
    const ALL: [Self; 2] = [Self::Openstack, Self::Postgres];

    /// Its name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Openstack => "openstack",
            Self::Postgres => "postgres",
        }
    }

    fn named(name: &str) -> Done<Self> {
        let known = Self::ALL.map(Self::name).join(", ");
        let found = Self::ALL.into_iter().find(|s| s.name() == name);
        found.ok_or_else(|| Failed::new(format!("no service {name}; there are: {known}")))
    }

    /// Why this machine cannot have it, if it cannot.
    pub(crate) fn unavailable(self) -> Option<String> {
        match self {
            Self::Openstack => openstack::unavailable(),
            Self::Postgres => postgres::unavailable(),
        }
    }

    fn is_up(self) -> bool {
        match self {
            Self::Openstack => openstack::answers(),
            Self::Postgres => postgres::env().is_ok(),
        }
    }

    fn up(self) -> Done<Env> {
        match self {
            Self::Openstack => openstack::up(),
            Self::Postgres => postgres::up(),
        }
    }

    fn env(self) -> Done<Env> {
        match self {
            Self::Openstack => openstack::env(),
            Self::Postgres => postgres::env(),
        }
    }

    fn down(self) -> Done {
        match self {
            Self::Openstack => openstack::down(),
            Self::Postgres => postgres::down(),
        }
    }
}

/// `cargo xtask services up|down|env NAME`.
pub(crate) fn run(command: &str, name: &str) -> Done {
    let service = Service::named(name)?;
    match command {
        "up" => show(&service.up()?),
        "env" => show(&service.env()?),
        "down" => service.down()?,
        other => return Err(Failed::new(format!("services {other}? up, down or env"))),
    }
    Ok(())
}

fn show(env: &[(String, String)]) {
    for (key, value) in env {
        say(&format!("{key}={value}"));
    }
}

/// A running service, to be given back.
pub(crate) struct Lease {
    service: Service,
    was_up: bool,
}

impl Lease {
    /// Brings it up where it is not, and answers its settings.
    pub(crate) fn take(service: Service) -> Done<(Self, Env)> {
        let lease = Self { service, was_up: service.is_up() };
        match service.up() {
            Ok(env) => Ok((lease, env)),
            Err(failed) => {
                let _ = lease.give_back().inspect_err(Failed::tell);
                Err(failed)
            }
        }
    }

    /// Takes it down again if it was not up before.
    pub(crate) fn give_back(self) -> Done {
        if self.was_up { Ok(()) } else { self.service.down() }
    }
}

/// What a script of `export` lines sets, by the shell itself: its quoting is the shell's business.
fn evaluate(exports: &str) -> Done<Env> {
    let mut shell = Command::new("bash");
    shell.args(["--noprofile", "--norc", "-c", "eval \"$0\"; env -0", exports]);
    shell.env_clear().env("PATH", "/usr/bin:/bin").stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = shell.output().map_err(|e| Failed::new(format!("bash: {e}")))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let pairs = text.split('\0').filter_map(|pair| pair.split_once('='));
    let own = |key: &str| matches!(key, "PATH" | "PWD" | "OLDPWD" | "SHLVL" | "_");
    let env: Env = pairs.filter(|(k, _)| !own(k)).map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
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

    #[test]
    fn services_are_known_by_name() {
        assert_eq!(Service::named("postgres"), Ok(Service::Postgres));
        assert!(Service::named("oracle").is_err_and(|e| e.message().contains("openstack, postgres")));
    }
}

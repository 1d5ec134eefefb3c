//! The command line: one type for each command, as clap reads it. What the commands do is in the modules
//! beside this one.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::Asked;
use crate::output::Format;

pub(crate) mod action;
pub(crate) mod apply;
pub(crate) mod cluster;
pub(crate) mod doctor;
pub(crate) mod requests;
pub(crate) mod settings;
pub(crate) mod tenant;
pub(crate) mod timeline;
pub(crate) mod view;
pub(crate) mod watch;

/// Provisor: an automated provisioning control plane.
#[derive(Debug, Parser)]
#[command(
    name = "provisor",
    version,
    after_help = "Exit codes: 0 done; 1 failed or did not end as asked; 2 usage, file or configuration; 3 refused; 4 not found; 5 unreachable; 6 timed out waiting."
)]
pub(crate) struct Cli {
    /// What holds for every command.
    #[command(flatten)]
    pub(crate) global: Global,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What holds for every command.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// Address of the server; by default the one that DIR/listen names, else http://127.0.0.1:8620
    #[arg(long, global = true, value_name = "URL", env = "PROVISOR_SERVER")]
    pub(crate) server: Option<String>,
    /// Token; by default the contents of DIR/admin-token
    #[arg(long, global = true, value_name = "TOKEN", env = "PROVISOR_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// Configuration file; by default provisor.toml where it exists
    #[arg(long, global = true, value_name = "FILE", env = "PROVISOR_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Data folder (the key data.dir)
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) data: Option<String>,
    /// Sets a configuration key, for example --set worker.lease_seconds=5
    #[arg(long = "set", global = true, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Form of the output
    #[arg(short = 'o', long = "output", global = true, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    pub(crate) output: Format,
    /// Only results, no remarks
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
}

impl Global {
    /// What of this is configuration; a wrong `--set` is answered as a usage error by the caller.
    pub(crate) fn asked(&self, listen: Option<&str>) -> Result<Asked, String> {
        let mut flags = Vec::new();
        for pair in &self.set {
            let Some((key, value)) = pair.split_once('=') else {
                return Err(format!("--set {pair}: must be KEY=VALUE"));
            };
            flags.push((key.trim().to_owned(), "--set".to_owned(), value.to_owned()));
        }
        if let Some(data) = &self.data {
            flags.push((crate::config::schema::DATA_DIR.to_owned(), "--data".to_owned(), data.clone()));
        }
        if let Some(listen) = listen {
            flags.push((crate::config::schema::HTTP_LISTEN.to_owned(), "--listen".to_owned(), listen.to_owned()));
        }
        Ok(Asked { file: self.config.clone(), flags })
    }
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start everything in one process, apply an example, show it live, go on serving
    Quickstart(Quickstart),
    /// Serve the API and do the work, all in one process
    Serve(Listen),
    /// Serve the API only; needs PostgreSQL
    Api(Listen),
    /// Do the work only; needs PostgreSQL
    Worker,
    /// Serve the simulated cloud as a process of its own
    Simcloud(Simcloud),
    /// Make what a manifest describes
    Apply(Apply),
    /// Show a request
    Get(One),
    /// List requests
    List(List),
    /// Follow requests until they end
    Watch(Watch),
    /// Show what happened to a request, and when
    Timeline(Timeline),
    /// Show the attempts of a request
    Attempts(One),
    /// Show what was made for a request
    Resources(One),
    /// Show the log of events
    Events(Events),
    /// Check now whether a service answers
    CheckStatus(One),
    /// Show what a running service uses now
    Metrics(One),
    /// Take back a request that is not completed
    Cancel(Act),
    /// Stop a service and keep it
    Suspend(Act),
    /// Start a suspended service again
    Reactivate(Act),
    /// Release a service for good
    Deprovision(Act),
    /// Ask for a rolled-back request again
    Retry(Act),
    /// Give what a managed service waits for
    ManualInput(ManualInput),
    /// Clusters
    #[command(subcommand)]
    Cluster(Cluster),
    /// Tenants
    #[command(subcommand)]
    Tenant(Tenant),
    /// Compare a cluster's inventory with the ledger and release what nobody owns
    Sweep(Sweep),
    /// Bring the database's schema up to date
    Migrate,
    /// Copy the database to a file, also while it is in use
    Backup {
        /// The file, which must not be there yet
        file: PathBuf,
    },
    /// Put a copy back where the database was, while nothing runs on it
    Restore(Restore),
    /// What administrators do to a store
    #[command(subcommand)]
    Admin(AdminCommand),
    /// The configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Find out why nothing works
    Doctor,
    /// Completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Pages made from the code
    #[command(hide = true)]
    Docs {
        /// Which page
        #[arg(value_parser = ["config", "cli", "openapi"])]
        page: String,
    },
}

/// `restore`.
#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// The copy
    pub(crate) file: PathBuf,
    /// Move a database that is there aside
    #[arg(long)]
    pub(crate) replace: bool,
}

/// What administrators do to a store.
#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum AdminCommand {
    /// After a restore or a promotion by other means: begin a new epoch, look for everything by its tag
    AfterRestore,
}

/// Where to serve.
#[derive(Debug, Clone, Args)]
pub(crate) struct Listen {
    /// Address to serve on (the key http.listen); port 0 takes a free one
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) listen: Option<String>,
}

/// `quickstart`.
#[derive(Debug, Args)]
pub(crate) struct Quickstart {
    #[command(flatten)]
    pub(crate) listen: Listen,
    /// End when the example is done, instead of serving on
    #[arg(long)]
    pub(crate) exit_when_done: bool,
}

/// `simcloud`.
#[derive(Debug, Args)]
pub(crate) struct Simcloud {
    /// Address to serve on; port 0 takes a free one
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8630")]
    pub(crate) listen: String,
}

/// How to wait.
#[derive(Debug, Clone, Args)]
pub(crate) struct Wait {
    /// Wait until it has ended
    #[arg(long)]
    pub(crate) wait: bool,
    /// Give up waiting after this long; the work goes on
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) timeout: Option<f64>,
}

/// `apply`.
#[derive(Debug, Args)]
pub(crate) struct Apply {
    /// The manifest, YAML or JSON; - reads standard input
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Change nothing; say what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) wait: Wait,
}

/// One request.
#[derive(Debug, Args)]
pub(crate) struct One {
    /// Id or name of the request
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    /// Tenant, where a name is used by several
    #[arg(long)]
    pub(crate) tenant: Option<String>,
}

/// `list`.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// Only in this state
    #[arg(long)]
    pub(crate) state: Option<String>,
    /// Only of this kind
    #[arg(long)]
    pub(crate) kind: Option<String>,
    /// Only of this tenant
    #[arg(long)]
    pub(crate) tenant: Option<String>,
    /// Only with this label, KEY=VALUE
    #[arg(long)]
    pub(crate) label: Option<String>,
    /// Only with this name
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) limit: u32,
    /// Go on where an earlier list ended
    #[arg(long)]
    pub(crate) cursor: Option<String>,
}

/// `watch`.
#[derive(Debug, Args)]
pub(crate) struct Watch {
    /// Ids or names of requests
    #[arg(value_name = "ID", required = true)]
    pub(crate) ids: Vec<String>,
    /// Tenant, where a name is used by several
    #[arg(long)]
    pub(crate) tenant: Option<String>,
    /// Give up after this long; the work goes on
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) timeout: Option<f64>,
}

/// `timeline`.
#[derive(Debug, Args)]
pub(crate) struct Timeline {
    #[command(flatten)]
    pub(crate) one: One,
    /// Each operation with its tries too
    #[arg(long)]
    pub(crate) operations: bool,
}

/// `events`.
#[derive(Debug, Args)]
pub(crate) struct Events {
    /// Go on as new events come
    #[arg(long, short = 'F')]
    pub(crate) follow: bool,
    /// Only after this cursor
    #[arg(long)]
    pub(crate) after: Option<String>,
    /// Only of this type, for example provisioning.completed
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) kind: Option<String>,
    /// Only of this tenant
    #[arg(long)]
    pub(crate) tenant: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=500))]
    pub(crate) limit: u32,
}

/// A command on a request.
#[derive(Debug, Args)]
pub(crate) struct Act {
    #[command(flatten)]
    pub(crate) one: One,
    /// Why
    #[arg(long)]
    pub(crate) reason: Option<String>,
    #[command(flatten)]
    pub(crate) wait: Wait,
}

/// `manual-input`.
#[derive(Debug, Args)]
pub(crate) struct ManualInput {
    #[command(flatten)]
    pub(crate) one: One,
    /// Where it answers, NAME=URL; may be given several times
    #[arg(long = "endpoint", value_name = "NAME=URL")]
    pub(crate) endpoints: Vec<String>,
    /// File with the access details, YAML or JSON; - reads standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) credentials_file: Option<PathBuf>,
    /// Why
    #[arg(long)]
    pub(crate) reason: Option<String>,
    #[command(flatten)]
    pub(crate) wait: Wait,
}

/// Commands about clusters.
#[derive(Debug, Subcommand)]
pub(crate) enum Cluster {
    /// List clusters
    List,
    /// Show one
    Get {
        /// Id or name
        id: String,
    },
    /// Register those of a file: one cluster, a list, or a manifest with `clusters`
    Add {
        /// YAML or JSON; - reads standard input
        #[arg(short, long, value_name = "FILE")]
        file: PathBuf,
    },
    /// Test whether it can be used
    Test {
        /// Id or name
        id: String,
    },
    /// Compare its inventory with the ledger and release what nobody owns
    Sweep(Sweep),
    /// Show what is on it and who owns it
    Inventory {
        /// Id or name
        id: String,
    },
    /// Forget it
    Remove {
        /// Id or name
        id: String,
    },
    /// Place new attempts on it
    Enable {
        /// Id or name
        id: String,
    },
    /// Place nothing new on it
    Disable {
        /// Id or name
        id: String,
    },
}

/// `sweep`.
#[derive(Debug, Args)]
pub(crate) struct Sweep {
    /// Id or name of the cluster
    #[arg(value_name = "CLUSTER")]
    pub(crate) id: String,
    /// Only say what is found
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Release one object that is listed as orphaned, by the backend's id, whatever its age
    #[arg(long, value_name = "ID", conflicts_with = "dry_run")]
    pub(crate) release: Option<String>,
}

/// Commands about tenants.
#[derive(Debug, Subcommand)]
pub(crate) enum Tenant {
    /// List tenants
    List,
    /// Show one
    Get {
        /// Id or name
        id: String,
    },
    /// Show its limits and what it uses
    Quota {
        /// Id or name
        id: String,
    },
    /// Forget it
    Remove {
        /// Id or name
        id: String,
    },
}

/// Commands about the configuration.
#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Say whether it is valid, and every fault where not
    Check,
    /// Show every key with its value and where that comes from
    Show,
    /// Show every key that there is
    Schema,
}

/// Reads a number of seconds.
fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(n) if n.is_finite() && (0.0..=3.2e8).contains(&n) => Ok(n),
        _ => Err("must be a number of seconds from 0 to 320000000, fractions allowed".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_flags_may_stand_anywhere() {
        let cli = Cli::try_parse_from(["provisor", "get", "db", "-o", "json", "--data", "d"]);
        assert!(cli.is_ok_and(|c| c.global.output == Format::Json && c.global.data.as_deref() == Some("d")));
    }

    #[test]
    fn seconds_may_have_fractions_but_must_be_numbers() {
        for (text, fits) in [("0.5", true), ("10", true), ("-1", false), ("nan", false), ("1e12", false), ("ten", false)] {
            let parsed = Cli::try_parse_from(["provisor", "watch", "db", &format!("--timeout={text}")]);
            assert_eq!(parsed.is_ok(), fits, "{text}");
        }
    }

    #[test]
    fn what_is_not_offered_yet_is_absent() {
        for command in ["explain", "approve", "webhook", "token", "bench"] {
            assert!(Cli::try_parse_from(["provisor", command]).is_err(), "{command}");
        }
    }
}

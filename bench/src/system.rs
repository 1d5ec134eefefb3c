//! One system under measurement: started on a fresh folder, found by the address that it writes, ended and
//! swept away.

use std::cell::RefCell;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::client::Connection;
use crate::options::{Name, Options};
use crate::{BenchError, Done, io, world};

/// A start that takes longer has failed.
const START_LIMIT: Duration = Duration::from_secs(60);

/// A running system.
pub(crate) struct System {
    pub(crate) name: Name,
    pub(crate) address: SocketAddr,
    pub(crate) token: String,
    /// Where its data is; gone with it.
    pub(crate) folder: PathBuf,
    /// Requests asked for so far, for their names.
    pub(crate) counter: Rc<RefCell<u64>>,
    child: Child,
    /// The database's own server, where it has one.
    database: Option<Database>,
    traced: bool,
}

/// A private PostgreSQL, which ends with its standard input.
struct Database {
    child: Child,
    url: String,
}

impl Database {
    fn start() -> Done<Self> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../testbeds/postgres/run.sh");
        let mut command = Command::new("bash");
        command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(io("starting PostgreSQL"))?;
        let mut url = String::new();
        if let Some(out) = child.stdout.take() {
            BufReader::new(out).read_line(&mut url).map_err(io("the URL of PostgreSQL"))?;
        }
        let url = url.trim().to_owned();
        if url.is_empty() { Err(BenchError::Wrong("PostgreSQL does not start".to_owned())) } else { Ok(Self { child, url }) }
    }

    fn stop(mut self) -> Done {
        drop(self.child.stdin.take());
        self.child.wait().map(drop).map_err(io("PostgreSQL"))
    }
}

impl System {
    pub(crate) fn start(name: Name, options: &Options) -> Done<Self> {
        let folder = std::env::temp_dir().join(format!("provisor-bench-{}-{}", std::process::id(), name.text()));
        std::fs::create_dir_all(&folder).map_err(io("a folder"))?;
        let mut command = if options.count_flushes { traced(&folder) } else { Command::new("env") };
        let database = if name.is_postgres() { Some(Database::start()?) } else { None };
        if let Some(database) = &database {
            command.env("PROVISOR_DATABASE__URL", &database.url);
        }
        if name.is_floor() {
            floor(&mut command, &folder, database.as_ref())?;
        } else {
            command.arg(&options.provisor).args(["serve", "--data", "data", "--listen", "127.0.0.1:0"]);
            command.args(["--set", "log.level=warn"]);
        }
        let log = std::fs::File::create(folder.join("log")).map_err(io("a log"))?;
        command.current_dir(&folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().map_err(io(format!("starting {}", name.text())))?;
        let address = SocketAddr::from(([0, 0, 0, 0], 0));
        let traced = options.count_flushes;
        let mut system = Self { name, address, token: String::new(), folder, counter: Rc::default(), child, database, traced };
        system.address = system.wait_for_address()?;
        if !name.is_floor() {
            let token = system.folder.join("data/admin-token");
            system.token = std::fs::read_to_string(token).map_err(io("the token"))?.trim().to_owned();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(io("a runtime"))?;
            runtime.block_on(async {
                let mut connection = Connection::open(system.address, &system.token).await?;
                world::prepare(&mut connection).await
            })?;
        }
        Ok(system)
    }

    fn wait_for_address(&mut self) -> Done<SocketAddr> {
        let begin = Instant::now();
        loop {
            let text = std::fs::read_to_string(self.folder.join("data/listen")).unwrap_or_default();
            if let Ok(address) = text.trim().parse() {
                return Ok(address);
            }
            let ended = self.child.try_wait().map_err(io("a process"))?.is_some();
            if ended || begin.elapsed() > START_LIMIT {
                let log = std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
                return Err(BenchError::Wrong(format!("{} does not start: {log}", self.name.text())));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The processes whose CPU time counts.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let own = self.child.id();
        if self.traced { descendants(own) } else { vec![own] }
    }

    /// The processes of its database's server.
    pub(crate) fn database_processes(&self) -> Vec<u32> {
        self.database.as_ref().map_or_else(Vec::new, |d| descendants(d.child.id()))
    }

    /// Ends it politely and sweeps up.
    pub(crate) fn stop(mut self) -> Done {
        for pid in self.processes() {
            let kill = Command::new("kill").arg("-TERM").arg(pid.to_string()).status();
            kill.map_err(io("kill"))?;
        }
        self.child.wait().map_err(io("a process"))?;
        if self.traced {
            let told = std::fs::read_to_string(self.folder.join("syscalls")).unwrap_or_default();
            crate::report::say(&format!("{}: {} requests\n{told}", self.name.text(), self.counter.borrow()));
        }
        if let Some(database) = self.database.take() {
            database.stop()?;
        }
        std::fs::remove_dir_all(&self.folder).map_err(io("a folder"))
    }
}

/// All processes below one.
fn descendants(of: u32) -> Vec<u32> {
    let mut found = vec![of];
    let mut seen = 0;
    while let Some(pid) = found.get(seen).copied() {
        seen += 1;
        let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        found.extend(text.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    found.remove(0);
    found
}

/// Counts the flushes by their system calls.
fn traced(folder: &Path) -> Command {
    let mut command = Command::new("strace");
    command.args(["-f", "--seccomp-bpf", "-qq", "-c", "-e", "trace=fsync,fdatasync", "-o"]).arg(folder.join("syscalls"));
    command
}

fn floor(command: &mut Command, folder: &Path, database: Option<&Database>) -> Done {
    let data = folder.join("data");
    std::fs::create_dir_all(&data).map_err(io("a folder"))?;
    command.arg(std::env::current_exe().map_err(io("the own binary"))?).arg("floor");
    match database {
        Some(database) => command.args(["postgres", "--at", &database.url]),
        None => command.args(["sqlite", "--at"]).arg(data.join("floor.db")),
    };
    command.arg("--listen-file").arg(data.join("listen"));
    Ok(())
}

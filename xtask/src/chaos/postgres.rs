//! A PostgreSQL of its own for one run, that can be stopped at once and started again on the same data.
//!
//! Durable as in production. Rejected: the script of `testbeds/postgres`, which ends and forgets its server.

use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::shell::{Done, Failed, root};

/// Longest time that a start may take, recovery included.
const START_LIMIT: Duration = Duration::from_mins(1);

/// A running server.
pub(crate) struct Postgres {
    programs: PathBuf,
    folder: PathBuf,
    pub(crate) port: u16,
    child: Option<Child>,
}

/// Whoever runs a program: the server refuses to run as root.
fn command(program: &Path) -> Command {
    let is_root = std::fs::metadata(root()).is_ok_and(|_| user("-u", &[]).as_deref() == Some("0"));
    let (Some(uid), Some(gid), true) = (user("-u", &["postgres"]), user("-g", &["postgres"]), is_root) else {
        return Command::new(program);
    };
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &uid, "--regid", &gid, "--clear-groups", "--"]).arg(program);
    command
}

fn user(what: &str, who: &[&str]) -> Option<String> {
    let output = Command::new("id").arg(what).args(who).output().ok().filter(|o| o.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The folder of the server's programs: of `PGTB_BIN`, of a Debian package, or on the path.
fn programs() -> Option<PathBuf> {
    let named = std::env::var_os("PGTB_BIN").map(PathBuf::from);
    let packaged = || {
        let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?.flatten().map(|v| v.path().join("bin"));
        versions.filter(|bin| bin.join("initdb").exists()).max()
    };
    let on_path = || std::env::split_paths(&std::env::var_os("PATH")?).find(|p| p.join("initdb").exists());
    named.or_else(packaged).or_else(on_path)
}

impl Postgres {
    /// A fresh one below `home`.
    pub(crate) fn open(home: &Path) -> Done<Self> {
        let wrong = |what: &str, e: &dyn std::fmt::Display| Failed::new(format!("postgres: {what}: {e}"));
        let programs = programs().ok_or_else(|| Failed::new("no PostgreSQL server is installed"))?;
        let folder = home.join("postgres");
        std::fs::create_dir_all(&folder).map_err(|e| wrong("its folder", &e))?;
        let owner = |what| user(what, &["postgres"]).and_then(|id| id.parse().ok());
        // Where this is not root nothing is to be given away.
        let _ = std::os::unix::fs::chown(&folder, owner("-u"), owner("-g"));
        let password = home.join("password");
        let written = std::fs::File::create(&password).and_then(|mut f| f.write_all(b"provisor"));
        written.map_err(|e| wrong("its password", &e))?;
        let mut init = command(&programs.join("initdb"));
        init.current_dir("/").arg("-D").arg(folder.join("data")).arg(format!("--pwfile={}", password.display()));
        init.args(["-U", "provisor", "-A", "scram-sha-256", "-E", "UTF8", "--locale=C.UTF-8"]);
        let output = init.stdin(Stdio::null()).output().map_err(|e| wrong("initdb", &e))?;
        if !output.status.success() {
            return Err(wrong("initdb", &String::from_utf8_lossy(&output.stderr)));
        }
        let free = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr());
        let port = free.map_err(|e| wrong("a free port", &e))?.port();
        let mut server = Self { programs, folder, port, child: None };
        server.start()?;
        Ok(server)
    }

    /// Starts it on the data that are there.
    pub(crate) fn start(&mut self) -> Done {
        let wrong = |e: std::io::Error| Failed::new(format!("postgres: {e}"));
        let log = std::fs::File::options().create(true).append(true).open(self.folder.join("log")).map_err(wrong)?;
        let mut server = command(&self.programs.join("postgres"));
        server.current_dir("/").arg("-D").arg(self.folder.join("data")).args(["-p", &self.port.to_string()]);
        let settings = ["listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=400", "timezone=UTC"];
        for setting in settings {
            server.args(["-c", setting]);
        }
        let child = server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().map_err(wrong)?;
        self.child = Some(child);
        let begin = Instant::now();
        while !self.is_ready() {
            if begin.elapsed() > START_LIMIT {
                return Err(Failed::new(format!("postgres does not start; see {}", self.folder.join("log").display())));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn is_ready(&self) -> bool {
        let mut ask = Command::new(self.programs.join("pg_isready"));
        ask.args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string()]);
        ask.status().is_ok_and(|s| s.success())
    }

    /// Ends it without a shutdown, so that the next start recovers, and starts it again.
    pub(crate) fn restart(&mut self) -> Done {
        self.end("QUIT");
        self.start()
    }

    fn end(&mut self, signal: &str) {
        let Some(mut child) = self.child.take() else { return };
        let _ = Command::new("kill").arg(format!("-{signal}")).arg(child.id().to_string()).status();
        let _ = child.wait();
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.end("INT");
    }
}

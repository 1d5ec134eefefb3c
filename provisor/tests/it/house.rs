//! Starting servers and running commands against them.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

/// No wait of a test is longer.
pub(crate) const LIMIT: Duration = Duration::from_mins(1);

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A folder that goes with its test.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        let name = format!("provisor-it-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::SeqCst));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The binary with an environment of its own.
pub(crate) fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_provisor"));
    for (name, _) in std::env::vars_os().filter(|(n, _)| n.to_string_lossy().starts_with("PROVISOR_")) {
        command.env_remove(name);
    }
    command.current_dir(folder).stdin(Stdio::null());
    command
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) exit: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Done {
    fn from(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { exit: output.status.code().unwrap_or(-1), out: text(&output.stdout), err: text(&output.stderr) }
    }
}

impl Done {
    /// It ended with this exit code.
    #[track_caller]
    pub(crate) fn exits(self, exit: i32) -> Self {
        assert_eq!(self.exit, exit, "{self:#?}");
        self
    }

    /// Its output as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:#?}"))
    }
}

/// A running server.
pub(crate) struct Server {
    pub(crate) folder: Folder,
    pub(crate) child: Child,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::start_in(Folder::new())
    }

    pub(crate) fn start_in(folder: Folder) -> Self {
        let log = std::fs::File::options().create(true).append(true).open(folder.0.join("log")).unwrap();
        let mut serve = command(&folder.0);
        serve.args(["serve", "--data", "data", "--listen", "127.0.0.1:0", "--set", "log.level=debug"]);
        let child = serve.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let mut server = Self { folder, child };
        let begin = Instant::now();
        while !server.folder.0.join("data/listen").exists() {
            assert!(server.child.try_wait().unwrap().is_none(), "ended: {}", server.log());
            assert!(begin.elapsed() < LIMIT, "does not start: {}", server.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.0.join("log")).unwrap_or_default()
    }

    pub(crate) fn token(&self) -> String {
        std::fs::read_to_string(self.folder.0.join("data/admin-token")).unwrap()
    }

    /// Runs a command against it.
    pub(crate) fn run(&self, arguments: &[&str]) -> Done {
        command(&self.folder.0).args(["--data", "data"]).args(arguments).output().unwrap().into()
    }

    /// Applies a manifest given as text.
    pub(crate) fn apply(&self, text: &str, more: &[&str]) -> Done {
        self.folder.write("manifest.yaml", text);
        self.run(&[&["apply", "-f", "manifest.yaml"], more].concat())
    }

    /// A signal by name.
    pub(crate) fn signal(&self, name: &str) {
        signal(&self.child, name);
    }

    /// Waits for its end.
    pub(crate) fn ended(&mut self) -> i32 {
        ended(&mut self.child)
    }

    /// Ends it politely and gives back its folder.
    pub(crate) fn stop(mut self) -> Folder {
        self.signal("TERM");
        assert_eq!(self.ended(), 0, "{}", self.log());
        std::mem::replace(&mut self.folder, Folder(PathBuf::from("none")))
    }
}

pub(crate) fn signal(child: &Child, name: &str) {
    let done = Command::new("kill").arg(format!("-{name}")).arg(child.id().to_string()).status().unwrap();
    assert!(done.success());
}

pub(crate) fn ended(child: &mut Child) -> i32 {
    let begin = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code().unwrap_or(-1);
        }
        assert!(begin.elapsed() < LIMIT, "does not end");
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A tenant and a fast simulated cluster; `settings` beside the pace.
pub(crate) fn world(settings: &str) -> String {
    format!(
        "tenants:\n- {{name: acme, quota: {{cpu: 8, memory_gb: 32, storage_gb: 400}}}}\n\
         clusters:\n- name: sim-1\n  provider: simulation\n  simulates: [openstack, kubernetes]\n  region: eu-west-1\n  \
         settings: {{time_scale: 0, late_create_seconds: 0.2, list_lag_seconds: 0.05, \
         retry: {{initial_seconds: 0.05, cap_seconds: 0.2, max_retries: 2}}, probe: {{every_seconds: 0.1}}{settings}}}\n"
    )
}

/// One server to ask for.
pub(crate) fn vps(name: &str, more: &str) -> String {
    format!(
        "- {{name: {name}, tenant: acme, kind: vps, region: eu-west-1, image: debian-12, size: {{cpu: 1, memory_gb: 1, storage_gb: 10}}{more}}}\n"
    )
}

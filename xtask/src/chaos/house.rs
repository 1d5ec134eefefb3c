//! The processes of a run: started from the built binary, killed, stopped for a while, started again.
//!
//! A process is named by its role and keeps its data folder over its deaths. Only children of this program
//! are ever signalled, by their ids.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::shell::{Done, Failed};

/// Longest time that a start may take.
const START_LIMIT: Duration = Duration::from_mins(1);

/// The exit code of a start that finds no database.
const UNREACHABLE: i32 = 5;

/// One role of the product as a process.
pub(crate) struct Process {
    pub(crate) name: String,
    binary: PathBuf,
    folder: PathBuf,
    arguments: Vec<String>,
    settings: Vec<(String, String)>,
    /// Whether it listens, and so says where.
    pub(crate) listens: bool,
    /// Whether it drives requests.
    pub(crate) works: bool,
    child: Option<Child>,
}

impl Process {
    /// A process that is not started yet; its folder is below `home`.
    pub(crate) fn new(home: &Path, binary: &Path, name: &str, role: &str, settings: &[(String, String)]) -> Self {
        let (listens, works) = (role != "worker", role == "worker" || role == "serve");
        let mut arguments: Vec<String> = [role, "--data", name].map(str::to_owned).into();
        if listens {
            arguments.extend(["--listen", "127.0.0.1:0"].map(str::to_owned));
        }
        let (binary, folder) = (binary.to_owned(), home.to_owned());
        Self { name: name.to_owned(), binary, folder, arguments, settings: settings.to_vec(), listens, works, child: None }
    }

    fn listen(&self) -> PathBuf {
        self.folder.join(&self.name).join("listen")
    }

    /// From its next start on it ends at this crash point.
    pub(crate) fn crash_at(&mut self, point: Option<&str>) {
        self.settings.retain(|(key, _)| key != "PROVISOR_CRASH_AT");
        self.settings.extend(point.map(|p| ("PROVISOR_CRASH_AT".to_owned(), p.to_owned())));
    }

    fn spawn(&mut self) -> Done {
        let wrong = |e: std::io::Error| Failed::new(format!("{}: {e}", self.name));
        // The address of the dead would be taken for that of the next.
        let _ = std::fs::remove_file(self.listen());
        let log = std::fs::File::options().create(true).append(true).open(self.log()).map_err(wrong)?;
        let mut command = Command::new(&self.binary);
        for (name, _) in std::env::vars_os().filter(|(n, _)| n.to_string_lossy().starts_with("PROVISOR_")) {
            command.env_remove(name);
        }
        command.current_dir(&self.folder).args(&self.arguments).envs(self.settings.iter().map(|(k, v)| (k, v)));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().map_err(wrong)?;
        self.child = Some(child);
        Ok(())
    }

    /// Starts it and waits until it says where it listens, or until it has come to its crash point.
    pub(crate) fn start(&mut self) -> Done {
        self.spawn()?;
        let begin = Instant::now();
        while self.listens && !self.listen().exists() {
            match self.end_of() {
                Some(status) if status.code() == Some(UNREACHABLE) => self.spawn()?,
                Some(status) if status.code().is_none() && self.crashes() => return Ok(()),
                Some(status) => {
                    return Err(Failed::new(format!("{} ended at its start: {status}; see {}", self.name, self.log().display())));
                }
                None => {}
            }
            if begin.elapsed() > START_LIMIT {
                return Err(Failed::new(format!("{} does not start; see {}", self.name, self.log().display())));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn log(&self) -> PathBuf {
        self.folder.join(format!("{}.log", self.name))
    }

    fn end_of(&mut self) -> Option<ExitStatus> {
        self.child.as_mut().and_then(|c| c.try_wait().ok().flatten())
    }

    /// It was ended by a signal, as at a crash point, and not by its own will.
    pub(crate) fn was_killed(&mut self) -> bool {
        self.end_of().is_some_and(|status| status.code().is_none())
    }

    /// It ends by itself at a crash point.
    fn crashes(&self) -> bool {
        self.settings.iter().any(|(key, _)| key == "PROVISOR_CRASH_AT")
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> Done<String> {
        crate::shell::read(&self.listen()).map(|a| a.trim().to_owned())
    }

    /// An error where it has ended by itself. Where that was for want of the database it is started again, as a
    /// supervisor does.
    pub(crate) fn check(&mut self) -> Done {
        match self.end_of() {
            Some(status) if status.code() == Some(UNREACHABLE) => self.start(),
            Some(status) => Err(Failed::new(format!("{} ended by itself: {status}; see {}", self.name, self.log().display()))),
            None => Ok(()),
        }
    }

    /// kill -9, and its burial.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Stops it for a while. A thread lets it go on, because whoever asks it something meanwhile may have to wait.
    pub(crate) fn stand_still(&self, time: Duration) -> Done {
        let Some(id) = self.child.as_ref().map(Child::id) else { return Ok(()) };
        let signal = move |name: &str| Command::new("kill").arg(format!("-{name}")).arg(id.to_string()).status();
        if !signal("STOP").is_ok_and(|status| status.success()) {
            return Err(Failed::new(format!("kill -STOP {}", self.name)));
        }
        std::thread::spawn(move || {
            std::thread::sleep(time);
            let _ = signal("CONT");
        });
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

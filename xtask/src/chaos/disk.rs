//! A disk of its own for the process on SQLite, which is full once in a run.
//!
//! A file system in memory, so only root can have it; a run of others goes without, and says so. What is on it outlives
//! the process, which is all that a kill takes away.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::shell::{Done, Failed};

/// Room for the largest run, many times over.
const SIZE: &str = "size=1g";

/// The disk.
pub(crate) struct Disk {
    at: PathBuf,
}

impl Disk {
    /// Mounts one; `None` where that is not allowed.
    pub(crate) fn mount(at: &Path) -> Option<Self> {
        std::fs::create_dir_all(at).ok()?;
        let output = Command::new("mount").args(["-t", "tmpfs", "-o", SIZE, "provisor-chaos"]).arg(at).output().ok()?;
        output.status.success().then(|| Self { at: at.to_owned() })
    }

    fn ballast(&self) -> PathBuf {
        self.at.join("ballast")
    }

    /// Takes all of the room.
    pub(crate) fn fill(&self) -> Done {
        let failed = |e: std::io::Error| Failed::new(format!("{}: {e}", self.ballast().display()));
        let mut file = std::fs::File::create(self.ballast()).map_err(failed)?;
        let much = vec![0; 1 << 20];
        while file.write_all(&much).is_ok() {}
        while file.write_all(&[0; 512]).is_ok() {}
        Ok(())
    }

    /// Gives it back.
    pub(crate) fn free(&self) -> Done {
        std::fs::remove_file(self.ballast()).map_err(|e| Failed::new(format!("{}: {e}", self.ballast().display())))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // What a failed run leaves to look at would go with it.
        let (aside, beside) = (self.at.with_extension("kept"), self.at.with_extension("disk"));
        let copied = Command::new("cp").arg("-r").arg(&self.at).arg(&aside).status().is_ok_and(|s| s.success());
        let _ = Command::new("umount").arg("-l").arg(&self.at).status();
        if copied && std::fs::rename(&self.at, &beside).is_ok() {
            let _ = std::fs::rename(aside, &self.at);
            let _ = std::fs::remove_dir(beside);
        }
    }
}

//! Whether a folder may hold the database (H42): there, writable, and on a local disk.
//!
//! The type of file system is read from the list of mounts, because asking the kernel directly needs code
//! that this workspace forbids or a dependency for one call. Where there is no such list nothing is
//! refused. Rejected: trusting SQLite to notice; it cannot.

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::driver::OpenError;

const MOUNTS: &str = "/proc/self/mountinfo";
/// Types of file system whose locks or flushes go over a network or through another program.
const NETWORK: [&str; 14] =
    ["nfs", "nfs4", "cifs", "smb", "smb2", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre", "ncpfs", "ocfs2"];
/// File systems in user space that are local: the root of containers without root, and NTFS.
const LOCAL_FUSE: [&str; 2] = ["fuse.fuse-overlayfs", "fuseblk"];

/// Makes the folder and the file where they are missing, the file readable only by its owner.
pub(crate) fn prepare(path: &Path) -> Result<(), OpenError> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let unusable = |e: std::io::Error| match e.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => OpenError::Full { path: parent.to_owned(), reason: e.to_string() },
        _ => OpenError::Folder { path: parent.to_owned(), reason: e.to_string() },
    };
    std::fs::create_dir_all(parent).map_err(unusable)?;
    let folder = parent.canonicalize().map_err(unusable)?;
    if let Some(kind) = std::fs::read_to_string(MOUNTS).ok().and_then(|mounts| network_type(&mounts, &folder)) {
        return Err(OpenError::NetworkFileSystem { path: folder, kind });
    }
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop).map_err(|e| match e.kind() {
        ErrorKind::IsADirectory => OpenError::NotADatabase { path: path.to_owned() },
        _ => unusable(e),
    })
}

/// The type of the network file system that `folder` is on, if it is on one.
fn network_type(mounts: &str, folder: &Path) -> Option<String> {
    // Fields: id, parent, device, root, mount point, options, tags …, "-", type, source, options. Of several
    // mounts at one place the last one counts.
    let mut best: Option<(usize, &str)> = None;
    for line in mounts.lines() {
        let Some((before, after)) = line.split_once(" - ") else { continue };
        let (Some(point), Some(kind)) = (before.split(' ').nth(4), after.split(' ').next()) else { continue };
        let point = unescape(point);
        let depth = point.components().count();
        if folder.starts_with(&point) && best.is_none_or(|(d, _)| depth >= d) {
            best = Some((depth, kind));
        }
    }
    let (_, kind) = best?;
    let refused = NETWORK.contains(&kind) || (kind.starts_with("fuse") && !LOCAL_FUSE.contains(&kind));
    refused.then(|| kind.to_owned())
}

/// Spaces and the like stand as octal numbers in the list.
fn unescape(text: &str) -> PathBuf {
    let spelled = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    PathBuf::from(spelled.iter().fold(text.to_owned(), |t, (from, to)| t.replace(from, to)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:40 / /srv/shared\\040disk rw,relatime shared:2 - nfs4 filer:/vol rw
31 30 0:41 / /srv/shared\\040disk/local rw - tmpfs tmpfs rw
32 22 0:42 / /mnt/ssh rw - fuse.sshfs host: rw
33 22 0:43 / /box rw - fuse.fuse-overlayfs fuse-overlayfs rw";

    #[test]
    fn h42_network_file_systems_are_seen() {
        let of = |folder: &str| network_type(LIST, Path::new(folder));
        assert_eq!(of("/var/lib/provisor"), None);
        assert_eq!(of("/srv/shared disk/provisor").as_deref(), Some("nfs4"));
        assert_eq!(of("/srv/shared disk/local/provisor"), None);
        assert_eq!(of("/mnt/ssh").as_deref(), Some("fuse.sshfs"));
        assert_eq!(of("/box/data"), None);
        assert_eq!(of("/srv/shared"), None);
    }
}

//! Disks that are full or cannot be written to: what users and operators see, that nothing is lost or half done, and
//! that it goes on by itself once there is room.
//!
//! Each test has a small file system in memory of its own. Only root can mount one; elsewhere these tests are skipped
//! with a line.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::house::{Done, Folder, LIMIT, Server, command, ended, signal};
use crate::outside::{Answer, Cloud, Http, assert_balanced, cluster, crash, tenant, wait, wait_up_to};
use crate::recovery::Sky;

/// What takes the room, and what is kept free until it does.
const BALLAST: &str = "ballast";

/// A file system of so many MiB in a folder.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: &Path, mebibytes: u32) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let size = format!("size={mebibytes}m,mode=755");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "provisor-test"]).arg(at).output();
        if mounted.is_ok_and(|done| done.status.success()) {
            return Some(Self(at.to_owned()));
        }
        writeln!(std::io::stderr().lock(), "skipped: no file system can be mounted here").unwrap();
        None
    }

    /// Leaves this much room and no more.
    fn fill(&self, but_for_kibibytes: u64) {
        let path = self.0.join(BALLAST);
        let mut file = std::fs::File::create(&path).unwrap();
        let mut written = 0;
        while file.write_all(&[1; 4096]).is_ok() {
            written += 4096;
        }
        file.set_len(u64::saturating_sub(written, but_for_kibibytes * 1024)).unwrap();
    }

    /// Leaves no room for as long as this takes: what is given back meanwhile, as PostgreSQL does with old parts of its
    /// log, is taken as well.
    fn full_while<T>(&self, what: impl FnOnce() -> T) -> T {
        self.fill(0);
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut file = std::fs::File::options().append(true).open(self.0.join(BALLAST)).unwrap();
                while !over.load(Ordering::Relaxed) {
                    while file.write_all(&[1; 4096]).is_ok() {}
                    std::thread::sleep(Duration::from_millis(2));
                }
            });
            let done = what();
            over.store(true, Ordering::Relaxed);
            done
        })
    }

    fn free(&self) {
        std::fs::remove_file(self.0.join(BALLAST)).unwrap();
    }

    fn remount(&self, how: &str) {
        let done = Command::new("mount").args(["-o", &format!("remount,{how}")]).arg(&self.0).status().unwrap();
        assert!(done.success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily, as a process that has just been killed may not be gone.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn run(folder: &Folder, arguments: &[&str]) -> Done {
    command(&folder.0).args(["--data", "data"]).args(arguments).output().unwrap().into()
}

/// A server that must not start; one that does is ended with its limit.
fn serve(folder: &Folder) -> Done {
    let mut command = Command::new("timeout");
    command.args(["-s", "KILL", "20", env!("CARGO_BIN_EXE_provisor"), "--data", "data", "serve", "--listen", "127.0.0.1:0"]);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PROVISOR_")) {
        command.env_remove(name);
    }
    command.current_dir(&folder.0).output().unwrap().into()
}

/// One line that says what and where, and nothing of our inside.
#[track_caller]
fn is_one_line(done: &Done, place: &str) {
    let lines: Vec<&str> = done.err.trim().lines().collect();
    assert!(lines.len() == 1 && lines[0].starts_with("error: ") && lines[0].contains(place), "{done:?}");
    assert!(!done.err.contains("panicked") && !done.err.contains("RUST_BACKTRACE"), "{done:?}");
}

fn order(name: &str) -> Value {
    json!({"name": name, "tenant": "acme", "kind": "vps", "region": "eu-west-1", "image": "debian-12",
        "size": {"cpu": 1, "memory_gb": 1, "storage_gb": 10}})
}

fn ask(http: &Http, name: &str) -> Answer {
    http.send("POST", "/api/requests", &[("idempotency-key", name)], Some(order(name).to_string()))
}

/// A cloud that takes its time, so that requests are in work when the disk is full; and its tenant.
fn world(http: &Http, sky: &Sky) {
    let slow = ", latency: {default: {fixed_ms: 150}}";
    let entry: Value = serde_saphyr::from_str::<Vec<Value>>(&cluster("sim-1", &sky.endpoint(), slow)).unwrap().remove(0);
    http.post("/api/clusters", &entry).is(201);
    let entry = serde_saphyr::from_str::<Value>(&tenant(1000, 50)).unwrap()["tenants"][0].clone();
    http.post("/api/tenants", &entry).is(201);
}

/// Asks until the store refuses for want of room. What was accepted meanwhile is remembered as accepted.
fn until_refused(http: &Http, prefix: &str, accepted: &mut Vec<String>) -> String {
    let mut count = 0;
    wait("the full disk refuses", || {
        count += 1;
        let name = format!("{prefix}-{count}");
        let answer = ask(http, &name);
        if answer.status == 202 {
            accepted.push(name);
            return None;
        }
        let problem = answer.is(503);
        assert_eq!((&problem["code"], &problem["retriable"]), (&json!("unavailable"), &json!(true)), "{problem:#}");
        assert!(problem["detail"].as_str().is_some_and(|d| d.ends_with("nothing was stored.")), "{problem:#}");
        assert_eq!(answer.header("retry-after"), "1");
        Some(name)
    })
}

/// All that was accepted is completed, once, and nothing else is there.
fn all_completed(http: &Http, sky: &Sky, accepted: &[String]) {
    wait_up_to(LIMIT * 2, "all is completed", || http.requests().iter().all(|r| r["state"] == "completed").then_some(()));
    let mut counts: BTreeMap<String, u32> = accepted.iter().map(|name| (name.clone(), 0)).collect();
    for request in http.requests() {
        *counts.get_mut(request["name"].as_str().unwrap()).unwrap_or_else(|| panic!("refused, but there: {request:#}")) += 1;
    }
    assert!(counts.values().all(|count| *count == 1), "{counts:?}");
    let front = sky.open();
    wait_up_to(LIMIT, "capacity and ledger are at rest", || {
        let quiet = |r: &Value| r["cleanup_owed"] == json!([]);
        http.requests().iter().all(quiet).then_some(())
    });
    assert_balanced(http, &[Cloud { http: &front, name: "sim-1" }]);
}

fn count(log: &str, words: &str) -> usize {
    log.lines().filter(|line| line.contains(words)).count()
}

/// The log at the level that operators have.
fn quiet(log: &str) -> String {
    log.lines().filter(|line| !line.contains(" DEBUG ") && !line.contains(" TRACE ")).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_full_disk_refuses_what_is_new_loses_nothing_and_goes_on_by_itself() {
    let folder = Folder::new();
    let Some(disk) = Disk::mount(&folder.0.join("data"), 24) else { return };
    let sky = Sky::apart(&folder);
    let server = Server::start_in(folder);
    let http = Http::of(&server);
    world(&http, &sky);
    let mut accepted: Vec<String> = (0..6).map(|n| format!("first-{n}")).collect();
    for name in &accepted {
        drop(ask(&http, name).is(202));
    }
    wait("they are in work", || (http.events().len() > 12).then_some(()));
    disk.fill(0);
    let refused = until_refused(&http, "more", &mut accepted);
    let there = http.requests();
    assert_eq!(there.len(), accepted.len(), "what is there can be read, and nothing of what was refused is");
    assert!(there.iter().any(|r| r["state"] != "completed"), "in work all the while");
    let backup = server.run(&["backup", "data/copy"]).exits(2);
    is_one_line(&backup, "data/copy cannot be written");
    let left: Vec<_> = std::fs::read_dir(&disk.0).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with("copy")), "{left:?}");
    for _ in 0..3 {
        assert_eq!(ask(&http, &refused).status, 503);
        std::thread::sleep(Duration::from_millis(700));
    }
    disk.free();
    wait("there is room again", || (ask(&http, &refused).status == 202).then_some(()));
    accepted.push(refused);
    all_completed(&http, &sky, &accepted);
    wait("the end of it is told", || server.log().contains("can be used again").then_some(()));
    let log = quiet(&server.log());
    let told = "the database cannot be written to; it is tried again until it can database=data/provisor.db";
    assert_eq!((count(&log, told), count(&log, "the database can be used again")), (1, 1), "{log}");
    assert_eq!(log.lines().filter(|l| l.contains("full")).count(), 1, "one line, however many tries: {log}");
    assert!(!log.contains("panicked"), "{log}");
    server.run(&["backup", "data/copy"]).exits(0);
    drop(server.stop());
}

#[test]
fn a_server_killed_on_a_full_disk_starts_again_once_there_is_room() {
    let folder = Folder::new();
    let Some(disk) = Disk::mount(&folder.0.join("data"), 24) else { return };
    let sky = Sky::apart(&folder);
    let server = Server::start_in(folder);
    let http = Http::of(&server);
    world(&http, &sky);
    let mut accepted: Vec<String> = (0..6).map(|n| format!("first-{n}")).collect();
    for name in &accepted {
        drop(ask(&http, name).is(202));
    }
    wait("they are in work", || (http.events().len() > 12).then_some(()));
    disk.fill(0);
    until_refused(&http, "more", &mut accepted);
    let folder = crash(server);
    // Nothing that the dead one leaves open may be the room that the next one finds.
    disk.fill(0);
    is_one_line(&serve(&folder).exits(5), "data");
    disk.free();
    let server = Server::start_in(folder);
    all_completed(&Http::of(&server), &sky, &accepted);
    drop(server.stop());
}

#[test]
fn a_first_start_on_a_full_disk_says_so_and_leaves_nothing_half() {
    let folder = Folder::new();
    let Some(disk) = Disk::mount(&folder.0.join("data"), 4) else { return };
    for kibibytes in [0, 4, 8, 16, 40, 64, 100] {
        disk.fill(kibibytes);
        is_one_line(&serve(&folder).exits(5), "data");
        is_one_line(&run(&folder, &["migrate"]).exits(5), "data");
        disk.free();
    }
    let server = Server::start_in(folder);
    server.run(&["tenant", "list"]).exits(0);
    drop(server.stop());
}

#[test]
fn a_disk_that_is_read_only_is_refused_and_changes_nothing() {
    let folder = Folder::new();
    let Some(disk) = Disk::mount(&folder.0.join("data"), 24) else { return };
    is_one_line(
        &{
            disk.remount("ro");
            serve(&folder).exits(2)
        },
        "the data folder data cannot be",
    );
    disk.remount("rw");
    let server = Server::start_in(folder);
    server.apply(&tenant(10, 5), &[]).exits(0);
    let folder = server.stop();
    disk.remount("ro");
    for arguments in [&["serve", "--listen", "127.0.0.1:0"][..], &["migrate"], &["restore", "data/provisor.db", "--replace"]] {
        is_one_line(&run(&folder, arguments).exits(2), "the data folder data cannot be");
    }
    is_one_line(&run(&folder, &["backup", "data/copy"]).exits(2), "data");
    disk.remount("rw");
    let server = Server::start_in(folder);
    let tenants = server.run(&["tenant", "list", "-o", "json"]).exits(0).json();
    assert_eq!(tenants["items"].as_array().map(Vec::len), Some(1), "{tenants:#}");
    drop(server.stop());
}

/// A PostgreSQL whose data are on a small disk, and which its supervisor starts again.
struct Postgres {
    programs: PathBuf,
    data: PathBuf,
    port: u16,
    child: Child,
}

impl Postgres {
    /// The server refuses to run as root, and only root gets so far.
    fn command(program: &Path) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups", "--"]).arg(program).current_dir("/");
        command
    }

    fn programs() -> Option<PathBuf> {
        let named = std::env::var_os("PGTB_BIN").map(PathBuf::from);
        let packaged = || {
            let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?.flatten().map(|v| v.path().join("bin"));
            versions.filter(|bin| bin.join("initdb").exists()).max()
        };
        named.or_else(packaged)
    }

    fn open(disk: &Disk) -> Option<Self> {
        let Some(programs) = Self::programs() else {
            writeln!(std::io::stderr().lock(), "skipped on PostgreSQL: no server is installed").unwrap();
            return None;
        };
        let owned = Command::new("chown").arg("postgres:").arg(&disk.0).status().unwrap();
        assert!(owned.success());
        let data = disk.0.join("data");
        let mut init = Self::command(&programs.join("initdb"));
        init.arg("-D").arg(&data).args(["-U", "provisor", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--wal-segsize=1"]);
        let done = init.output().unwrap();
        assert!(done.status.success(), "{done:?}");
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Self::spawn(&programs, &data, port);
        let server = Self { programs, data, port, child };
        server.wait();
        Some(server)
    }

    fn spawn(programs: &Path, data: &Path, port: u16) -> Child {
        let mut server = Self::command(&programs.join("postgres"));
        server.arg("-D").arg(data).args(["-p", &port.to_string()]);
        for setting in ["listen_addresses=127.0.0.1", "unix_socket_directories=", "min_wal_size=2MB", "max_wal_size=4MB"] {
            server.args(["-c", setting]);
        }
        server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    fn wait(&self) {
        wait("PostgreSQL answers", || {
            let mut ask = Command::new(self.programs.join("pg_isready"));
            ask.args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string()]).status().unwrap().success().then_some(())
        });
    }

    fn url(&self) -> String {
        format!("postgres://provisor@127.0.0.1:{}/postgres", self.port)
    }

    /// What its supervisor does where it has ended by itself.
    fn revive(&mut self) {
        if self.child.try_wait().unwrap().is_some() {
            self.child = Self::spawn(&self.programs, &self.data, self.port);
        }
        self.wait();
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if self.child.try_wait().unwrap().is_none() {
            signal(&self.child, "INT");
            ended(&mut self.child);
        }
    }
}

#[test]
fn postgresql_with_a_full_disk_refuses_what_is_new_loses_nothing_and_goes_on_by_itself() {
    let folder = Folder::new();
    // Where another user may go.
    let Some(disk) = Disk::mount(&std::env::temp_dir().join(format!("provisor-disk-{}", std::process::id())), 96) else { return };
    let Some(mut postgres) = Postgres::open(&disk) else { return };
    let sky = Sky::apart(&folder);
    folder.write("provisor.toml", &format!("[database]\nurl = \"{}\"\n[worker]\nlease_seconds = 2\n", postgres.url()));
    let mut server = Server::start_in(folder);
    let http = Http::of(&server);
    world(&http, &sky);
    let mut accepted: Vec<String> = (0..6).map(|n| format!("first-{n}")).collect();
    for name in &accepted {
        drop(ask(&http, name).is(202));
    }
    wait("they are in work", || (http.events().len() > 12).then_some(()));
    disk.fill(0);
    let refused = wait("the full disk refuses", || {
        let name = format!("more-{}", accepted.len());
        let answer = ask(&http, &name);
        if answer.status == 202 {
            accepted.push(name);
            return None;
        }
        assert_eq!(answer.is(503)["code"], "unavailable");
        Some(name)
    });
    for _ in 0..3 {
        assert_eq!(ask(&http, &refused).status, 503);
        std::thread::sleep(Duration::from_millis(700));
    }
    assert!(server.child.try_wait().unwrap().is_none(), "it stays: {}", server.log());
    disk.free();
    postgres.revive();
    wait("there is room again", || (ask(&http, &refused).status == 202).then_some(()));
    accepted.push(refused);
    all_completed(&http, &sky, &accepted);
    wait("the end of it is told", || server.log().contains("can be used again").then_some(()));
    let log = quiet(&server.log());
    let told = format!("database=127.0.0.1:{}/postgres", postgres.port);
    let lines: Vec<&str> = log.lines().filter(|l| l.contains("the database cannot be") && l.contains(&told)).collect();
    assert_eq!(lines.len(), 1, "{log}");
    assert!(lines[0].contains("No space left on device") || lines[0].contains("reach") || lines[0].contains("closed"), "{log}");
    assert!(!log.contains("panicked"), "{log}");
    let folder = server.stop();
    // A schema finds no room: told as such, and made whole at the next start.
    drop(folder);
    let folder = Folder::new();
    let url = postgres.url().replace("/postgres", "/second");
    folder.write("provisor.toml", &format!("[database]\nurl = \"{url}\"\n"));
    let mut make = Command::new(postgres.programs.join("createdb"));
    let made = make.args(["-h", "127.0.0.1", "-p", &postgres.port.to_string(), "-U", "provisor", "second"]).status().unwrap();
    assert!(made.success());
    let refused = disk.full_while(|| serve(&folder));
    is_one_line(&refused.exits(5), &format!("127.0.0.1:{}/second", postgres.port));
    disk.free();
    postgres.revive();
    let server = Server::start_in(folder);
    server.run(&["tenant", "list"]).exits(0);
    drop(server.stop());
}

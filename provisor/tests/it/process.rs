//! Processes: signals, locks, ports, tokens, configuration.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::house::{Done, Folder, LIMIT, Server, command, ended, signal, vps, world};
use crate::outside::{Http, crash, text};

#[test]
fn a_polite_end_is_clean_and_work_goes_on_after_it() {
    let server = Server::start();
    let slow = ", latency: {create_server: {fixed_ms: 3000}}";
    let text = format!("{}requests:\n{}", world(slow).replace("time_scale: 0,", "time_scale: 1,"), vps("db", ""));
    server.apply(&text, &[]).exits(0);
    let folder = server.stop();
    assert!(!folder.0.join("data/listen").exists());
    let server = Server::start_in(folder);
    server.run(&["watch", "db", "--timeout", "40"]).exits(0);
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let mut server = Server::start();
    let hang = ", faults: [{operation: create_server, kind: hang}]";
    server.apply(&format!("{}requests:\n{}", world(hang), vps("db", "")), &[]).exits(0);
    server.run(&["watch", "db", "--timeout", "1"]).exits(6);
    server.signal("TERM");
    let begin = Instant::now();
    while !server.log().contains("shutting down") {
        assert!(begin.elapsed() < LIMIT, "{}", server.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    server.signal("TERM");
    assert_eq!(server.ended(), 1);
    assert!(begin.elapsed() < Duration::from_secs(20), "{}", server.log());
}

#[test]
fn h42_a_folder_has_one_server_and_a_port_too() {
    let server = Server::start();
    let second: Done =
        command(&server.folder.0).args(["serve", "--data", "data", "--listen", "127.0.0.1:0"]).output().unwrap().into();
    let second = second.exits(2);
    assert!(second.err.contains(&format!("process {}", server.child.id())), "{second:?}");
    let address = std::fs::read_to_string(server.folder.0.join("data/listen")).unwrap();
    let taken: Done = command(&server.folder.0).args(["serve", "--data", "other", "--listen", &address]).output().unwrap().into();
    assert!(taken.exits(2).err.contains("cannot listen on"));
}

#[test]
fn the_first_token_is_private_and_in_no_log() {
    let server = Server::start();
    let mode = std::fs::metadata(server.folder.0.join("data/admin-token")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    server.run(&["tenant", "list"]).exits(0);
    assert!(!server.log().contains(&server.token()));
    server.run(&["--token", "pvr_wrong", "tenant", "list"]).exits(3);
}

#[test]
fn a_given_token_is_the_first_administrator() {
    let folder = Folder::new();
    let mut serve = command(&folder.0);
    serve.args(["serve", "--data", "data", "--listen", "127.0.0.1:0"]).env("PROVISOR_AUTH__BOOTSTRAP_TOKEN", "pvr_given");
    let mut child = serve.stderr(Stdio::null()).spawn().unwrap();
    let begin = Instant::now();
    while !folder.0.join("data/listen").exists() && begin.elapsed() < LIMIT {
        std::thread::sleep(Duration::from_millis(20));
    }
    let done: Done =
        command(&folder.0).args(["--data", "data", "--token", "pvr_given", "tenant", "list"]).output().unwrap().into();
    signal(&child, "INT");
    assert_eq!(ended(&mut child), 0);
    done.exits(0);
}

#[test]
fn what_cannot_be_configured_ends_with_two() {
    let folder = Folder::new();
    let run = |arguments: &[&str]| -> Done { command(&folder.0).args(arguments).output().unwrap().into() };
    run(&["serve", "--set", "worker.lease_secnds=1"]).exits(2);
    for role in ["api", "worker"] {
        let refused = run(&[role]).exits(2);
        assert!(refused.err.contains("PostgreSQL") && refused.err.contains("database.url"), "{refused:?}");
    }
    folder.write("provisor.toml", "[smtp]\nurl = \"smtp://x\"\n");
    let done = run(&["config", "check"]).exits(2);
    assert!(done.err.contains("provisor.toml:2: smtp.url") && done.err.contains("not offered"), "{done:?}");
    folder.write("provisor.toml", "[data]\ndir = \"there\"\n");
    assert_eq!(run(&["config", "show", "-o", "json"]).exits(0).json()[0]["value"], "there");
    folder.write("file", "");
    run(&["serve", "--data", "file/below"]).exits(2);
    run(&["list", "--server", "http://127.0.0.1:1"]).exits(5);
    run(&["list", "--server", "ftp://x"]).exits(2);
}

/// A server of PostgreSQL's protocol that only greets, as one of an old version.
fn old_server() -> std::net::SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::Builder::new()
        .spawn(move || {
            let (mut caller, _) = listener.accept().unwrap();
            let mut hello = [0; 1024];
            // First whether it speaks TLS, which it does not.
            assert_eq!(caller.read(&mut hello).unwrap(), 8);
            caller.write_all(b"N").unwrap();
            assert!(caller.read(&mut hello).unwrap() > 8);
            let version = b"server_version\0\x31\x34.11 (Debian)\0";
            let told = u32::try_from(4 + version.len()).unwrap().to_be_bytes();
            let parts: [&[u8]; 5] = [b"R\0\0\0\x08\0\0\0\0", b"S", &told, version, b"Z\0\0\0\x05I"];
            caller.write_all(&parts.concat()).unwrap();
            // Until the caller has gone.
            let _ = caller.read_to_end(&mut Vec::new());
        })
        .unwrap();
    address
}

#[test]
fn a_database_server_that_cannot_be_used_is_refused_in_one_line() {
    let folder = Folder::new();
    let serve = |url: &str| -> Done {
        let mut command = command(&folder.0);
        command.args(["serve", "--data", "data", "--listen", "127.0.0.1:0"]).env("PROVISOR_DATABASE__URL", url);
        command.output().unwrap().into()
    };
    let url = |rest: &str| format!("postgres://provisor:hunter2@{rest}");
    let old = old_server().to_string();
    let cases = [
        (url("127.0.0.1:1/db"), 5, "127.0.0.1:1/db cannot be reached"),
        (url("name.invalid/db"), 5, "name.invalid:5432/db cannot be reached"),
        (url(&format!("{old}/db")), 2, "is PostgreSQL 14.11 (Debian); 15 or later is needed"),
        (url("host:port/db"), 2, "the database URL cannot be used"),
        (url("host/db?no_such=1"), 2, "the database URL cannot be used"),
        ("postgres://provisor:hunter2@more@host/db".to_owned(), 2, "%40"),
    ];
    for (url, exit, word) in cases {
        let done = serve(&url).exits(exit);
        assert!(done.err.contains(word), "{word}: {done:?}");
        // A fault of the configuration has a line that says so before it.
        assert!(done.err.lines().count() <= 2 && !done.err.contains("hunter2") && !done.err.contains("panicked"), "{done:?}");
    }
}

#[test]
fn the_simulated_cloud_may_be_a_process_of_its_own() {
    let folder = Folder::new();
    let mut cloud = command(&folder.0)
        .args(["simcloud", "--listen", "127.0.0.1:0", "--data", "cloud"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let listen = folder.0.join("cloud/listen");
    let begin = Instant::now();
    while !listen.exists() && begin.elapsed() < LIMIT {
        std::thread::sleep(Duration::from_millis(20));
    }
    let address = std::fs::read_to_string(&listen).unwrap();
    let server = Server::start();
    let world = world("").replace("  region:", &format!("  endpoint: {{url: \"http://{address}\"}}\n  region:"));
    let done = server.apply(&format!("{world}requests:\n{}", vps("db", "")), &["--wait", "--timeout", "40"]);
    signal(&cloud, "TERM");
    assert_eq!(ended(&mut cloud), 0);
    done.exits(0);
}

/// What was answered is kept (H42): the process ends the moment that the answer is there.
pub(crate) fn what_was_answered_survives_a_kill(folder: Folder) {
    let mut server = Server::start_in(folder);
    server.apply(&world(""), &[]).exits(0);
    let mut kept = Vec::new();
    for round in 0..3 {
        let http = Http::of(&server);
        for number in 0..=round {
            let one = serde_json::json!({"name": format!("db-{round}-{number}"), "tenant": "acme", "kind": "vps",
                "region": "eu-west-1", "image": "debian-12", "size": {"cpu": 1, "memory_gb": 1, "storage_gb": 10}});
            kept.push(text(&http.post("/api/requests", &one).is(202), "/id").to_owned());
        }
        server = Server::start_in(crash(server));
        let http = Http::of(&server);
        for id in &kept {
            assert_eq!(text(&http.request(id), "/id"), id);
            assert_eq!(http.events_of(id)[0]["type"], "provisioning.started");
        }
    }
}

#[test]
fn h42_what_was_answered_survives_a_kill() {
    what_was_answered_survives_a_kill(Folder::new());
}

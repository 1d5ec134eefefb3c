//! A run on its way: the processes, the load, and how far everything is.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use provisor_core::Chance as _;
use provisor_core::chance::SplitMix;
use serde_json::{Value, json};

use super::checks::text;
use super::disk::Disk;
use super::house::Process;
use super::http::{Answer, Http};
use super::load::{self, CLUSTERS, Fate, MIX, Mix, Post, TENANTS};
use super::postgres::Postgres;
use super::proxy::Proxy;
use super::trouble::Traps;
use super::{Asked, Database};
use crate::shell::{Done, Failed, say};

/// The token of the first administrator of every run; the store is thrown away with it.
const TOKEN: &str = "pvr_chaos_0123456789abcdefghijklmnopqrstuv";
/// More are sent while fewer than these have not ended.
const OPEN: usize = 60;
/// But no more than these between two looks.
const AT_ONCE: usize = 25;
/// The load goes on while kills are left, up to so many times what was asked for.
const MOST: usize = 4;
/// Length of a lease in seconds.
pub(super) const LEASE: u64 = 3;
/// The processes on PostgreSQL: name and role.
const ROLES: [(&str, &str); 5] =
    [("api-1", "api"), ("api-2", "api"), ("worker-1", "worker"), ("worker-2", "worker"), ("worker-3", "worker")];

/// How far a request is with its fate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing was asked yet.
    Before,
    /// Suspended, as was asked.
    Under,
    /// Everything was asked.
    After,
}

/// Everything that is on: the processes, the load, and how far it is.
pub(super) struct Stage<'a> {
    pub(super) asked: &'a Asked,
    pub(super) chance: SplitMix,
    pub(super) begin: Instant,
    pub(super) houses: Vec<Process>,
    pub(super) cloud: Process,
    pub(super) proxy: Option<Proxy>,
    pub(super) postgres: Option<Postgres>,
    pub(super) restarted: bool,
    /// That of the process on SQLite, until it has been full.
    pub(super) disk: Option<Disk>,
    pub(super) was_full: bool,
    pub(super) next_cut: Instant,
    pub(super) posts: Vec<Post>,
    pub(super) sent: usize,
    pub(super) names: BTreeMap<String, Fate>,
    pub(super) turns: BTreeMap<String, Turn>,
    /// The last look at all requests.
    pub(super) requests: Vec<Value>,
    pub(super) kills: Vec<(String, usize)>,
    /// The crash points of a run that has them.
    pub(super) traps: Option<Traps>,
    /// Processes that stood still for a while.
    pub(super) stops: usize,
    /// The one that stands still now, and until when.
    pub(super) still: Option<(usize, Instant)>,
    pub(super) next_kill: Instant,
    pub(super) told: Instant,
}

impl<'a> Stage<'a> {
    pub(super) fn open(asked: &'a Asked, home: &Path, binary: &Path) -> Done<Self> {
        let setting = |key: &str, value: &str| (format!("PROVISOR_{key}"), value.to_owned());
        let mut settings = vec![
            setting("AUTH__BOOTSTRAP_TOKEN", TOKEN),
            setting("WORKER__LEASE_SECONDS", &LEASE.to_string()),
            setting("SECRETS__KEY_FILE", &home.join("secrets.key").to_string_lossy()),
            setting("LOG__LEVEL", "debug"),
        ];
        let mut cloud = Process::new(home, binary, "cloud", "simcloud", &[]);
        cloud.start()?;
        let (mut postgres, mut proxy) = (None, None);
        let disk = if asked.database == Database::Sqlite { Disk::mount(&home.join("serve")) } else { None };
        let mut roles = &[("serve", "serve")][..];
        if asked.database == Database::Postgres {
            let server = postgres.insert(Postgres::open(home)?);
            let before = proxy.insert(Proxy::open(server.port)?);
            let url = format!("postgres://provisor:provisor@{}/postgres?sslmode=disable", before.address);
            settings.push(setting("DATABASE__URL", &url));
            roles = &ROLES;
        }
        let mut houses: Vec<Process> =
            roles.iter().map(|(name, role)| Process::new(home, binary, name, role, &settings)).collect();
        houses.iter_mut().try_for_each(Process::start)?;
        let now = Instant::now();
        Ok(Self {
            asked,
            chance: SplitMix::new(asked.seed ^ 0x6b69_6c6c),
            begin: now,
            houses,
            cloud,
            proxy,
            postgres,
            restarted: false,
            disk,
            was_full: false,
            next_cut: now + Duration::from_secs(5),
            posts: load::posts(asked.seed, 0, asked.requests),
            sent: 0,
            names: BTreeMap::new(),
            turns: BTreeMap::new(),
            requests: Vec::new(),
            kills: Vec::new(),
            traps: asked.crash_points.then(Traps::default),
            stops: 0,
            still: None,
            next_kill: now + Duration::from_secs(2),
            told: now,
        })
    }

    /// One of those that serve the API; `turn` goes round.
    fn http(&self, turn: usize) -> Done<Http> {
        let others = self.houses.iter().filter(|h| h.listens).count() > 1;
        let still = self.still.filter(|_| others).map(|(at, _)| at);
        let serves = |(at, house): &(usize, &Process)| house.listens && still != Some(*at);
        let mut serving = self.houses.iter().enumerate().filter(serves).map(|(_, h)| h).cycle().skip(turn % 64);
        let house = serving.next().ok_or_else(|| Failed::new("nothing is served"))?;
        Ok(Http { address: house.address()?, token: TOKEN.to_owned() })
    }

    pub(super) fn sky(&self) -> Done<Http> {
        Ok(Http { address: self.cloud.address()?, token: String::new() })
    }

    /// Does something by one of those that serve, or by another, until it is done: what was killed comes back.
    pub(super) fn by_any<T>(&mut self, act: impl Fn(&Http) -> Done<T>) -> Done<T> {
        let begin = Instant::now();
        let mut turn = begin.duration_since(self.begin).subsec_micros() as usize;
        loop {
            match self.http(turn).and_then(|http| act(&http)) {
                Err(failed) if begin.elapsed() > Duration::from_mins(1) => return Err(failed),
                Err(_) => {
                    self.revive()?;
                    std::thread::sleep(Duration::from_millis(50));
                }
                done => return done,
            }
            turn += 1;
        }
    }

    /// Asks until there is an answer.
    pub(super) fn ask(&mut self, method: &str, path: &str, key: Option<&str>, body: Option<&Value>) -> Done<Answer> {
        self.by_any(|http| {
            let answer = http.ask(method, path, key, body)?;
            if answer.status == 503 { Err(Failed::new(format!("{method} {path}: {answer:?}"))) } else { Ok(answer) }
        })
    }

    pub(super) fn perform(&mut self) -> Done {
        self.register()?;
        self.set_traps()?;
        let limit = Duration::from_secs(self.asked.minutes * 60);
        loop {
            self.cloud.check()?;
            self.revive()?;
            self.feed()?;
            let looked = Instant::now();
            self.requests = self.by_any(|http| http.all("/api/requests", "cursor"))?;
            let cost = looked.elapsed();
            self.tell();
            self.fulfil()?;
            let all_sent = self.sent == self.posts.len();
            if all_sent && self.is_over_with_kills() && self.requests.iter().all(|r| self.is_over(r)) {
                break;
            }
            self.stop()?;
            self.kill(all_sent)?;
            self.shake()?;
            if self.begin.elapsed() > limit {
                break;
            }
            std::thread::sleep(cost.clamp(Duration::from_millis(200), Duration::from_secs(1)));
        }
        self.disarm()?;
        self.judge()
    }

    fn register(&mut self) -> Done {
        let url = format!("http://{}", self.cloud.address()?);
        let mix = if self.asked.calm { Mix { transient: 0.0, permanent: 0.0, lost_reply: 0.0, late_success: 0.0 } } else { MIX };
        for (number, (name, plays)) in CLUSTERS.iter().enumerate() {
            let seed = self.asked.seed.wrapping_mul(100).wrapping_add(number as u64);
            let body = load::cluster(name, plays, &url, seed, self.asked.requests * MOST, mix);
            self.must(201, "/api/clusters", &body)?;
        }
        (0..TENANTS).try_for_each(|number| self.must(201, "/api/tenants", &load::tenant(number, self.asked.requests * MOST)))
    }

    fn must(&mut self, status: u16, path: &str, body: &Value) -> Done {
        let answer = self.ask("POST", path, None, Some(body))?;
        if answer.status == status {
            return Ok(());
        }
        Err(Failed::new(format!("POST {path}: {} {}\n{body}", answer.status, answer.body)))
    }

    /// Requests in work, by the last look (H19).
    pub(super) fn in_work(&self) -> usize {
        let works = |r: &&Value| matches!(text(r, "state"), "allocating" | "configuring" | "activating" | "verifying");
        self.requests.iter().filter(works).count()
    }

    /// Sends more of the load where little is under way, so that it lasts over all kills.
    fn feed(&mut self) -> Done {
        let open =
            self.requests.iter().filter(|r| !matches!(text(r, "state"), "completed" | "suspended" | "rolled_back")).count();
        if self.sent == self.posts.len() && !self.is_over_with_kills() && self.names.len() < self.asked.requests * MOST {
            // Without work a kill says nothing.
            let sent = self.names.len();
            self.posts.extend(load::posts(self.asked.seed, sent, sent + OPEN));
        }
        let due = self.names.len() + OPEN.saturating_sub(open).min(AT_ONCE);
        while self.names.len() < due {
            let Some(post) = self.posts.get(self.sent).cloned() else { return Ok(()) };
            let key = format!("chaos-{}-{}", self.asked.seed, self.sent);
            let answer = self.ask("POST", post.path, Some(&key), Some(&post.body))?;
            if answer.status != 202 {
                return Err(Failed::new(format!("POST {}: {} {}\n{}", post.path, answer.status, answer.body, post.body)));
            }
            self.names.extend(post.names);
            self.sent += 1;
        }
        Ok(())
    }

    /// Asks of the requests what is to become of them.
    fn fulfil(&mut self) -> Done {
        let requests = std::mem::take(&mut self.requests);
        let done = requests.iter().try_for_each(|request| self.fulfil_one(request));
        self.requests = requests;
        done
    }

    fn fulfil_one(&mut self, request: &Value) -> Done {
        let mut body = json!({"reason": "chaos"});
        let (name, state) = (text(request, "name"), text(request, "state"));
        let turn = self.turns.get(name).copied().unwrap_or(Turn::Before);
        let running = request.pointer("/action/status").and_then(Value::as_str) == Some("running");
        let (action, next) = match (self.names.get(name).copied().unwrap_or(Fate::Left), turn, state) {
            (Fate::Cancelled, Turn::Before, "allocating" | "configuring" | "activating" | "verifying" | "queued") => {
                ("cancel", Turn::After)
            }
            (Fate::Deprovisioned, Turn::Before, "completed") => ("deprovision", Turn::After),
            (Fate::Suspended, Turn::Before, "completed") => ("suspend", Turn::Under),
            (Fate::Suspended, Turn::Under, "suspended" | "completed") if !running => ("reactivate", Turn::After),
            _ => return Ok(()),
        };
        // Some at each look, so that they fall on every step of the way.
        if turn == Turn::Before && self.sent < self.posts.len() && self.chance.fraction() > 0.3 {
            return Ok(());
        }
        if let (Some(body), "deprovision") = (body.as_object_mut(), action) {
            // Others of its batch may stand on it.
            body.insert("force".to_owned(), json!(true));
        }
        let path = format!("/api/requests/{}/{action}", text(request, "id"));
        let answer = self.ask("POST", &path, None, Some(&body))?;
        match answer.status {
            202 | 409 => self.turns.insert(name.to_owned(), next),
            _ => return Err(Failed::new(format!("POST {path}: {} {}", answer.status, answer.body))),
        };
        Ok(())
    }

    /// Nothing more will come of it by itself, nor is anything more asked of it.
    fn is_over(&self, request: &Value) -> bool {
        let name = text(request, "name");
        let turn = self.turns.get(name).copied().unwrap_or(Turn::Before);
        let running = request.pointer("/action/status").and_then(Value::as_str) == Some("running");
        match (text(request, "state"), self.names.get(name)) {
            ("completed", Some(Fate::Deprovisioned)) => false,
            ("completed" | "suspended", Some(Fate::Suspended)) => turn == Turn::After && !running,
            ("rolled_back" | "completed", _) => true,
            _ => false,
        }
    }

    fn tell(&mut self) {
        if self.told.elapsed() < Duration::from_secs(5) {
            return;
        }
        self.told = Instant::now();
        let mut states: BTreeMap<&str, usize> = BTreeMap::new();
        for request in &self.requests {
            *states.entry(text(request, "state")).or_default() += 1;
        }
        let states: Vec<String> = states.iter().map(|(state, n)| format!("{n} {state}")).collect();
        let kills = self.kills.len();
        say(&format!("{:4} s  {kills} kills  {}", self.begin.elapsed().as_secs(), states.join(", ")));
    }
}

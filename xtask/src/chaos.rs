//! `cargo xtask chaos`: the real processes under faults and kills, and what must hold in the end.
//!
//! A simulated cloud runs as a process of its own and outlives everything else. Five tenants ask for
//! everything that can be asked for by itself; every call of every cloud may fail, get lost or come late;
//! processes are killed in the middle of the work. Everything is asked by plain HTTP, and everything that is
//! drawn follows from one seed (the moments of kills follow from how far the work is). Rejected: kills by the
//! clock alone (on a slow machine they fall on nothing).

mod checks;
mod house;
mod http;
mod load;
mod postgres;
mod proxy;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use provisor_core::Chance as _;
use provisor_core::chance::SplitMix;
use serde_json::{Value, json};

use self::checks::{Breach, CHECKS, Seen, list, text};
use self::house::Process;
use self::http::{Answer, Http};
use self::load::{CLUSTERS, Fate, MIX, Mix, Post, TENANTS};
use self::postgres::Postgres;
use self::proxy::Proxy;
use crate::process::must;
use crate::shell::{Done, Failed, cargo, root, say};

/// The token of the first administrator of every run; the store is thrown away with it.
const TOKEN: &str = "pvr_chaos_0123456789abcdefghijklmnopqrstuv";
/// A kill is worth something with so many requests in work.
const IN_WORK: usize = 20;
/// More are sent while fewer than these have not ended.
const OPEN: usize = 40;
/// But no more than these between two looks.
const AT_ONCE: usize = 25;
/// Length of a lease in seconds.
const LEASE: u64 = 3;
/// Longest that what may come late is waited for after the last end.
const SETTLES: Duration = Duration::from_mins(1);

/// Where the state is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Database {
    /// In the one process that does everything.
    Sqlite,
    /// In a server, behind a proxy that cuts, and used by several processes.
    Postgres,
}

/// The processes on PostgreSQL: name and role.
const ROLES: [(&str, &str); 5] =
    [("api-1", "api"), ("api-2", "api"), ("worker-1", "worker"), ("worker-2", "worker"), ("worker-3", "worker")];

/// What was asked for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Asked {
    pub(crate) requests: usize,
    pub(crate) kills: usize,
    pub(crate) seed: u64,
    pub(crate) database: Database,
    pub(crate) minutes: u64,
    pub(crate) calm: bool,
    pub(crate) keep: bool,
    pub(crate) binary: Option<PathBuf>,
}

impl Default for Asked {
    fn default() -> Self {
        Self {
            requests: 500,
            kills: 20,
            seed: 1,
            database: Database::Sqlite,
            minutes: 30,
            calm: false,
            keep: false,
            binary: None,
        }
    }
}

fn asked(options: &[&str]) -> Done<Asked> {
    let mut asked = Asked::default();
    let mut options = options.iter();
    while let Some(option) = options.next() {
        let mut number = || {
            let value = options.next().and_then(|v| v.parse::<u64>().ok());
            value.ok_or_else(|| Failed::new(format!("{option} NUMBER")))
        };
        match *option {
            "--requests" => asked.requests = usize::try_from(number()?).unwrap_or(usize::MAX),
            "--kills" => asked.kills = usize::try_from(number()?).unwrap_or(usize::MAX),
            "--seed" => asked.seed = number()?,
            "--minutes" => asked.minutes = number()?,
            "--database" => {
                asked.database = match options.next() {
                    Some(&"sqlite") => Database::Sqlite,
                    Some(&"postgres") => Database::Postgres,
                    _ => return Err(Failed::new("--database sqlite|postgres")),
                };
            }
            "--calm" => asked.calm = true,
            "--keep" => asked.keep = true,
            "--binary" => asked.binary = options.next().map(PathBuf::from),
            other => return Err(Failed::new(format!("unknown option {other}"))),
        }
    }
    Ok(asked)
}

/// `cargo xtask chaos`.
pub(crate) fn run(options: &[&str]) -> Done {
    play(&asked(options)?)
}

/// The one of `cargo xtask test --chaos`: the same always, and over in little more than a minute.
pub(crate) fn small() -> Done {
    play(&Asked { requests: 60, kills: 3, minutes: 4, ..Asked::default() })
}

/// One whole run.
fn play(asked: &Asked) -> Done {
    let binary = match &asked.binary {
        Some(binary) => std::fs::canonicalize(binary).map_err(|e| Failed::new(format!("{}: {e}", binary.display())))?,
        None => built()?,
    };
    let home = std::env::temp_dir().join(format!("provisor-chaos-{}", std::process::id()));
    std::fs::create_dir_all(&home).map_err(|e| Failed::new(format!("{}: {e}", home.display())))?;
    say(&format!("chaos: seed {}, {} requests, {} kills, in {}", asked.seed, asked.requests, asked.kills, home.display()));
    let mut stage = Stage::open(asked, &home, &binary)?;
    let done = stage.perform();
    drop(stage);
    if done.is_ok() && !asked.keep {
        let _ = std::fs::remove_dir_all(&home);
    } else {
        say(&format!("logs and data are kept in {}", home.display()));
    }
    done.map_err(|e| Failed::new(format!("{}\nagain: cargo xtask chaos {}", e.message(), again(asked))))
}

fn again(asked: &Asked) -> String {
    let database = if asked.database == Database::Postgres { " --database postgres" } else { "" };
    format!("--seed {} --requests {} --kills {}{database}", asked.seed, asked.requests, asked.kills)
}

/// Builds the binary as it is now, and says where it is.
fn built() -> Done<PathBuf> {
    let mut command = std::process::Command::new(cargo());
    command.current_dir(root()).args(["build", "--quiet", "--package", "provisor", "--bin", "provisor"]);
    must(command)?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    Ok(target.join("debug/provisor"))
}

/// How far a request is with its fate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// Nothing was asked yet.
    Before,
    /// Suspended, as was asked.
    Under,
    /// Everything was asked.
    After,
}

/// Everything that is on: the processes, the load, and how far it is.
struct Stage<'a> {
    asked: &'a Asked,
    chance: SplitMix,
    begin: Instant,
    houses: Vec<Process>,
    cloud: Process,
    proxy: Option<Proxy>,
    postgres: Option<Postgres>,
    restarted: bool,
    next_cut: Instant,
    posts: Vec<Post>,
    sent: usize,
    names: BTreeMap<String, Fate>,
    turns: BTreeMap<String, Turn>,
    /// The last look at all requests.
    requests: Vec<Value>,
    kills: Vec<(String, usize)>,
    /// Processes that stood still for a while.
    stops: usize,
    /// The one that stands still now, and until when.
    still: Option<(usize, Instant)>,
    next_kill: Instant,
    told: Instant,
}

impl<'a> Stage<'a> {
    fn open(asked: &'a Asked, home: &Path, binary: &Path) -> Done<Self> {
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
            next_cut: now + Duration::from_secs(5),
            posts: load::posts(asked.seed, asked.requests),
            sent: 0,
            names: BTreeMap::new(),
            turns: BTreeMap::new(),
            requests: Vec::new(),
            kills: Vec::new(),
            stops: 0,
            still: None,
            next_kill: now + Duration::from_secs(2),
            told: now,
        })
    }

    /// One of those that serve the API; `turn` goes round.
    fn http(&self, turn: usize) -> Done<Http> {
        let still = self.still.map(|(at, _)| at);
        let serves = |(at, house): &(usize, &Process)| house.listens && still != Some(*at);
        let mut serving = self.houses.iter().enumerate().filter(serves).map(|(_, h)| h).cycle().skip(turn % 64);
        let house = serving.next().ok_or_else(|| Failed::new("nothing is served"))?;
        Ok(Http { address: house.address()?, token: TOKEN.to_owned() })
    }

    fn sky(&self) -> Done<Http> {
        Ok(Http { address: self.cloud.address()?, token: String::new() })
    }

    /// Does something by one of those that serve, or by another, until it is done: what was killed comes back.
    fn by_any<T>(&self, act: impl Fn(&Http) -> Done<T>) -> Done<T> {
        let begin = Instant::now();
        let mut turn = begin.duration_since(self.begin).subsec_micros() as usize;
        loop {
            match self.http(turn).and_then(|http| act(&http)) {
                Err(failed) if begin.elapsed() > Duration::from_mins(1) => return Err(failed),
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
                done => return done,
            }
            turn += 1;
        }
    }

    /// Asks until there is an answer.
    fn ask(&self, method: &str, path: &str, key: Option<&str>, body: Option<&Value>) -> Done<Answer> {
        self.by_any(|http| {
            let answer = http.ask(method, path, key, body)?;
            if answer.status == 503 { Err(Failed::new(format!("{method} {path}: {answer:?}"))) } else { Ok(answer) }
        })
    }

    fn perform(&mut self) -> Done {
        self.register()?;
        let limit = Duration::from_secs(self.asked.minutes * 60);
        loop {
            self.cloud.check()?;
            self.houses.iter_mut().try_for_each(Process::check)?;
            self.feed()?;
            let looked = Instant::now();
            self.requests = self.by_any(|http| http.all("/api/requests", "cursor"))?;
            let cost = looked.elapsed();
            self.tell();
            self.fulfil()?;
            let all_sent = self.sent == self.posts.len();
            if all_sent
                && self.still.is_none()
                && self.kills.len() >= self.asked.kills
                && self.requests.iter().all(|r| self.is_over(r))
            {
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
        self.judge()
    }

    fn register(&self) -> Done {
        let url = format!("http://{}", self.cloud.address()?);
        let mix = if self.asked.calm { Mix { transient: 0.0, permanent: 0.0, lost_reply: 0.0, late_success: 0.0 } } else { MIX };
        for (number, (name, plays)) in CLUSTERS.iter().enumerate() {
            let seed = self.asked.seed.wrapping_mul(100).wrapping_add(number as u64);
            let body = load::cluster(name, plays, &url, seed, self.asked.requests, mix);
            self.must(201, "/api/clusters", &body)?;
        }
        (0..TENANTS).try_for_each(|number| self.must(201, "/api/tenants", &load::tenant(number, self.asked.requests)))
    }

    fn must(&self, status: u16, path: &str, body: &Value) -> Done {
        let answer = self.ask("POST", path, None, Some(body))?;
        if answer.status == status {
            return Ok(());
        }
        Err(Failed::new(format!("POST {path}: {} {}\n{body}", answer.status, answer.body)))
    }

    /// Requests in work, by the last look (H19).
    fn in_work(&self) -> usize {
        let works = |r: &&Value| matches!(text(r, "state"), "allocating" | "configuring" | "activating" | "verifying");
        self.requests.iter().filter(works).count()
    }

    /// Sends more of the load where little is under way, so that it lasts over all kills.
    fn feed(&mut self) -> Done {
        let open =
            self.requests.iter().filter(|r| !matches!(text(r, "state"), "completed" | "suspended" | "rolled_back")).count();
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
        let reason = json!({"reason": "chaos"});
        for request in &self.requests {
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
                _ => continue,
            };
            // Some at each look, so that they fall on every step of the way.
            if turn == Turn::Before && self.sent < self.posts.len() && self.chance.fraction() > 0.3 {
                continue;
            }
            let path = format!("/api/requests/{}/{action}", text(request, "id"));
            let answer = self.ask("POST", &path, None, Some(&reason))?;
            match answer.status {
                202 | 409 => self.turns.insert(name.to_owned(), next),
                _ => return Err(Failed::new(format!("POST {path}: {} {}", answer.status, answer.body))),
            };
        }
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

    /// Kills a process in the middle of the work, and starts it again.
    fn kill(&mut self, all_sent: bool) -> Done {
        if self.kills.len() >= self.asked.kills || Instant::now() < self.next_kill {
            return Ok(());
        }
        let in_work = self.in_work();
        if in_work < IN_WORK && !all_sent {
            return Ok(());
        }
        let mut at = usize::try_from(self.chance.next_u64() % (self.houses.len().max(1) as u64)).unwrap_or(0);
        if self.still.is_some_and(|(still, _)| still == at) {
            at = (at + 1) % self.houses.len();
        }
        let pause = Duration::from_secs_f64(self.chance.fraction() * 0.8);
        let Some(house) = self.houses.get_mut(at) else { return Ok(()) };
        house.kill();
        self.kills.push((house.name.clone(), in_work));
        std::thread::sleep(pause);
        house.start()?;
        self.next_kill = Instant::now() + Duration::from_secs_f64(0.3 + self.chance.fraction() * 1.5);
        Ok(())
    }

    /// Connections to the database are cut, replies to commits are lost, and once the server itself is restarted.
    fn shake(&mut self) -> Done {
        let (Some(proxy), Some(postgres)) = (&self.proxy, &mut self.postgres) else { return Ok(()) };
        if self.asked.kills == 0 || Instant::now() < self.next_cut {
            return Ok(());
        }
        if !self.restarted && self.kills.len() * 2 >= self.asked.kills {
            self.restarted = true;
            postgres.restart()?;
        } else if self.chance.fraction() < 0.2 {
            proxy.cut();
        } else {
            proxy.lose_reply();
        }
        self.next_cut = Instant::now() + Duration::from_secs_f64(0.5 + self.chance.fraction() * 1.5);
        Ok(())
    }

    /// Once in a run each process that works stands still for longer than its lease, and goes on as if nothing had been.
    fn stop(&mut self) -> Done {
        if let Some((at, until)) = self.still {
            if Instant::now() < until {
                return Ok(());
            }
            self.still = None;
            return self.houses.get(at).map_or(Ok(()), |house| house.signal("CONT"));
        }
        let workers: Vec<usize> = (0..self.houses.len()).filter(|at| self.houses.get(*at).is_some_and(|h| h.works)).collect();
        let due = self.kills.len() * (workers.len() + 1) / self.asked.kills.max(1);
        let next = workers.get(self.stops).filter(|_| self.stops < due).copied();
        let Some((at, house)) = next.and_then(|at| Some((at, self.houses.get(at)?))) else { return Ok(()) };
        house.signal("STOP")?;
        self.stops += 1;
        let still = Duration::from_secs(LEASE + 2);
        if self.houses.iter().filter(|h| h.listens).count() > 1 {
            self.still = Some((at, Instant::now() + still));
            return Ok(());
        }
        std::thread::sleep(still);
        house.signal("CONT")
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

    /// Looks at everything and judges it.
    fn judge(&mut self) -> Done {
        let took = self.begin.elapsed();
        let sky = self.sky()?;
        let mut seen = self.by_any(|http| Seen::look(http, &sky, &self.names))?;
        let mut breaches = seen.breaches(false);
        let begin = Instant::now();
        let mut late = seen.breaches(true);
        while !late.is_empty() && begin.elapsed() < SETTLES {
            std::thread::sleep(Duration::from_secs(1));
            seen = self.by_any(|http| Seen::look(http, &sky, &self.names))?;
            late = seen.breaches(true);
        }
        breaches.extend(late);
        self.sum_up(&seen, took, begin.elapsed());
        if let Some(proxy) = &self.proxy {
            say(&format!("PostgreSQL restarted: {}; replies to commits lost: {}", self.restarted, proxy.lost()));
        }
        for check in &CHECKS {
            let broken: Vec<&Breach> = breaches.iter().filter(|b| b.check == check.sentence).collect();
            say(&format!("{} {}", if broken.is_empty() { "  ok " } else { "  NOT" }, check.sentence));
            broken.iter().take(10).for_each(|b| say(&format!("       {}: {}", b.request.as_deref().unwrap_or("-"), b.what)));
        }
        let mut told: Vec<&String> = breaches.iter().filter_map(|b| b.request.as_ref()).collect();
        told.dedup();
        for id in told.into_iter().take(3) {
            self.by_any(|http| life(http, id))?;
        }
        let few = self.kills.iter().filter(|(_, n)| *n < IN_WORK).count();
        if few > 0 {
            say(&format!("{few} of {} kills fell on fewer than {IN_WORK} requests in work", self.kills.len()));
        }
        if breaches.is_empty() { Ok(()) } else { Err(Failed::new(format!("{} breaches", breaches.len()))) }
    }

    fn sum_up(&self, seen: &Seen, took: Duration, settled: Duration) {
        let mut errors: BTreeMap<&str, usize> = BTreeMap::new();
        for request in seen.requests.iter().filter(|r| text(r, "state") == "rolled_back") {
            let code = request.pointer("/error/code").and_then(Value::as_str);
            *errors.entry(code.unwrap_or(text(request, "outcome"))).or_default() += 1;
        }
        let count = |state: &str| seen.requests.iter().filter(|r| text(r, "state") == state).count();
        let attempts: usize = seen.requests.iter().map(|r| list(r, "attempts").len()).sum();
        say(&format!(
            "{} requests in {:.0} s: {} completed, {} suspended, {} rolled back; {attempts} attempts; {} kills, {} stops; settled after {:.0} s",
            seen.requests.len(),
            took.as_secs_f64(),
            count("completed"),
            count("suspended"),
            count("rolled_back"),
            self.kills.len(),
            self.stops,
            settled.as_secs_f64()
        ));
        let errors: Vec<String> = errors.iter().map(|(code, n)| format!("{n} {code}")).collect();
        say(&format!("rolled back for: {}", errors.join(", ")));
    }
}

/// A request's whole life, a line for each fact.
fn life(http: &Http, id: &str) -> Done {
    let timeline = http.get(&format!("/api/requests/{id}/timeline?detail=operations"))?;
    let rows = http.get(&format!("/api/requests/{id}/resources"))?;
    say(&format!("the life of {id}:"));
    for entry in list(&timeline, "timeline").iter().take(200) {
        let metadata = entry.get("metadata").unwrap_or(&Value::Null).to_string();
        let short: String = metadata.chars().take(400).collect();
        say(&format!("  {} {} {short}", text(entry, "timestamp"), text(entry, "event")));
    }
    for row in list(&rows, "items") {
        say(&format!("  row {row}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read() {
        let read = asked(&["--requests", "60", "--kills", "3", "--seed", "9", "--calm"]).expect("options");
        assert_eq!((read.requests, read.kills, read.seed, read.calm), (60, 3, 9, true));
        assert!(asked(&["--kills"]).is_err() && asked(&["--database"]).is_err());
    }
}

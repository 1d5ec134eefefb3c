//! The simulated cloud: clusters by name behind one lock, its durable memory, its listeners.
//!
//! One lock over everything, held for the microseconds of a [`turn`](crate::turn) and never while waiting: the order
//! of calls is then the order of their effects and of their writes. What follows a turn (the commit, the latency, a
//! silence) is awaited without it.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher as _, Hasher as _};
use std::net::SocketAddrV4;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use provisor_core::{Class, Failure, Timestamp};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::disk::{Disk, DiskError};
use crate::listen::Listeners;
use crate::port::{Ask, CloudPort, Registration, Reply};
use crate::roll::uuid;
use crate::turn::Turn;
use crate::world::{Cluster, Head, Late, Resource};

/// Tells the time.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// How long a call that is never answered is kept before its connection counts as broken. Any caller's own limit is
/// shorter; this one only bounds what a caller without one leaves behind.
const SILENCE: Duration = Duration::from_hours(1);

/// The simulated cloud.
pub(crate) struct Cloud {
    clock: Clock,
    disk: Option<Disk>,
    clusters: Mutex<BTreeMap<String, Site>>,
    listeners: Listeners,
}

/// A cluster with what of it listens.
struct Site {
    cluster: Cluster,
    open: BTreeMap<String, BTreeSet<SocketAddrV4>>,
}

impl Cloud {
    /// A cloud that forgets; it has no thread, and with `listeners: false` no socket either.
    pub(crate) fn in_memory(clock: Clock) -> Self {
        Self { clock, disk: None, clusters: Mutex::default(), listeners: Listeners::default() }
    }

    /// A cloud that keeps its inventory in a folder.
    pub(crate) fn open(folder: &Path, clock: Clock) -> Result<Self, DiskError> {
        let (disk, memory) = Disk::open(folder)?;
        let clusters = recall(&memory).into_iter().map(|(n, cluster)| (n, Site { cluster, open: BTreeMap::new() })).collect();
        Ok(Self { clock, disk: Some(disk), clusters: Mutex::new(clusters), listeners: Listeners::default() })
    }

    /// Listens again for everything that answers; where no runtime is there yet, the next call on it does.
    pub(crate) fn listen_again(&self) {
        let now = (self.clock)();
        for site in self.lock().values_mut() {
            site.cluster.tick(now);
            self.listen(site, now);
            let _ = self.flush(site);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Site>> {
        self.clusters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a cluster, or changes its settings; at once, without waiting for the memory.
    pub(crate) fn register(&self, name: &str, registration: &Registration) {
        let _ = self.turn(name, &Ask::Register(registration.clone()));
    }

    /// Has the effect of a question. The receiver tells when it is in the memory.
    fn turn(&self, name: &str, ask: &Ask) -> (Turn, Option<oneshot::Receiver<bool>>) {
        let now = (self.clock)();
        let mut clusters = self.lock();
        if let Ask::Register(registration) = ask
            && !clusters.contains_key(name)
        {
            clusters.insert(name.to_owned(), Site { cluster: self.found(name, registration), open: BTreeMap::new() });
        }
        let Some(site) = clusters.get_mut(name) else {
            let failure = Failure::new(Class::Transient, UNKNOWN_CLUSTER, format!("the simulated cloud has no cluster {name:?}"));
            return (crate::turn::failed(failure), None);
        };
        let turn = site.cluster.turn(ask, now);
        self.listen(site, now);
        let written = self.flush(site);
        (turn, written)
    }

    fn flush(&self, site: &mut Site) -> Option<oneshot::Receiver<bool>> {
        let (changes, durable) = site.cluster.take_changes();
        // Why under the lock: the memory must see changes in the order in which they happened.
        self.disk.as_ref().filter(|_| !changes.is_empty()).and_then(|d| d.put(changes, durable))
    }

    /// A new cluster. Its identity is random, or follows from its name where nothing is kept and runs are to repeat.
    fn found(&self, name: &str, registration: &Registration) -> Cluster {
        let random = self.disk.as_ref().map_or(0, |_| std::collections::hash_map::RandomState::new().build_hasher().finish());
        let head = Head { identity: uuid(random, &[name, "identity"], 0), registration: registration.clone(), number: 0 };
        let mut cluster = Cluster::new(name, head);
        cluster.save_head();
        cluster
    }

    /// Opens and closes listeners where something changed.
    fn listen(&self, site: &mut Site, now: Timestamp) {
        if tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        for stack in std::mem::take(&mut site.cluster.touched) {
            let wanted = site.cluster.sockets(&stack, now);
            let open = site.open.remove(&stack).unwrap_or_default();
            let stays: BTreeSet<SocketAddrV4> = wanted.iter().map(|(s, _)| *s).collect();
            for socket in open.difference(&stays) {
                self.listeners.close(*socket);
            }
            if wanted.is_empty() {
                continue;
            }
            let text = json!({"service": "simulated", "cluster": site.cluster.name, "attempt": stack}).to_string();
            let listening = wanted.into_iter().filter(|(s, way)| self.listeners.open(*s, *way, &text));
            let listening = listening.map(|(s, _)| s).collect();
            site.open.insert(stack, listening);
        }
    }

    /// What the cloud holds, in the shape of API.md; `None` where it has no such cluster.
    pub(crate) fn inventory(&self, name: &str, live: bool) -> Option<Value> {
        let now = (self.clock)();
        let mut clusters = self.lock();
        let site = clusters.get_mut(name)?;
        site.cluster.tick(now);
        self.listen(site, now);
        let _ = self.flush(site);
        let cluster = &site.cluster;
        let mut made: BTreeMap<(&str, &str, &str), u64> = BTreeMap::new();
        for r in cluster.gone.iter().chain(cluster.live.values()) {
            *made.entry((&r.tag, &r.kind, &r.name)).or_default() += 1;
        }
        let mut all: Vec<&Resource> = cluster.live.values().chain(cluster.gone.iter().filter(|_| !live)).collect();
        all.sort_by_key(|r| r.number);
        let resources: Vec<Value> = all
            .into_iter()
            .map(|r| {
                json!({
                    "id": r.id, "kind": r.kind, "name": r.name, "tag": r.tag, "request": r.request, "attempt": r.attempt,
                    "made_at": r.made_at, "gone_at": r.gone_at,
                    "created_count": made.get(&(r.tag.as_str(), r.kind.as_str(), r.name.as_str())).copied().unwrap_or(1),
                })
            })
            .collect();
        let calls: BTreeMap<&String, &BTreeMap<String, u64>> = cluster.calls.iter().map(|(n, c)| (n, &c.results)).collect();
        Some(json!({"cluster": name, "resources": resources, "calls": calls}))
    }
}

/// The code of a failure that says that a cluster must be registered first.
pub(crate) const UNKNOWN_CLUSTER: &str = "unknown_cluster";

#[async_trait]
impl CloudPort for Cloud {
    async fn call(&self, cluster: &str, ask: Ask) -> Result<Reply, Failure> {
        let (turn, written) = self.turn(cluster, &ask);
        if let Some(written) = written
            && !written.await.unwrap_or(false)
        {
            let class = if turn.creates { Class::Ambiguous } else { Class::Transient };
            return Err(Failure::new(class, "cloud_memory", "the simulated cloud could not write its memory"));
        }
        if turn.wait.0 > 0 {
            tokio::time::sleep(turn.wait.to_std()).await;
        }
        match turn.end {
            Some(Ok(Reply::Answering { address: Some(std::net::SocketAddr::V4(a)) })) if !self.listeners.is_open(a) => {
                Ok(Reply::Answering { address: None })
            }
            Some(end) => end,
            None => {
                tokio::time::sleep(SILENCE).await;
                let class = if turn.creates { Class::Ambiguous } else { Class::Transient };
                Err(Failure::new(class, "connection_lost", "the connection broke before an answer came (simulated)"))
            }
        }
    }
}

/// Rebuilds the clusters from what was kept: `c/NAME/` the head, `r/NAME/NUMBER` a resource, `n/NAME/OPERATION` its
/// calls, `f/NAME/` the counts of rules, `v/NAME/ATTEMPT/STEP` a verdict, `l/NAME/NUMBER` a late create.
fn recall(memory: &BTreeMap<String, String>) -> BTreeMap<String, Cluster> {
    let mut clusters = BTreeMap::new();
    for (_, name, _, text) in parts(memory).filter(|(space, ..)| *space == "c") {
        if let Some(head) = read::<Head>(text) {
            clusters.insert(name.to_owned(), Cluster::new(name, head));
        }
    }
    for (space, name, rest, text) in parts(memory) {
        let Some(cluster) = clusters.get_mut(name) else { continue };
        match space {
            "r" => read::<Resource>(text).into_iter().for_each(|r| cluster.restore(r)),
            "n" => cluster.calls.extend(read(text).map(|calls| (rest.to_owned(), calls))),
            "f" => cluster.counts = read(text).unwrap_or_default(),
            "v" => cluster.verdicts.extend(read(text).map(|good| (rest.to_owned(), good))),
            "l" => cluster.late.extend(rest.parse().ok().and_then(|n| Some((n, read::<Late>(text)?)))),
            _ => {}
        }
    }
    for cluster in clusters.values_mut() {
        cluster.gone.make_contiguous().sort_by_key(|r| (r.gone_at, r.number));
    }
    clusters
}

fn parts(memory: &BTreeMap<String, String>) -> impl Iterator<Item = (&str, &str, &str, &str)> {
    memory.iter().filter_map(|(key, text)| {
        let (space, rest) = key.split_once('/')?;
        let (name, rest) = rest.split_once('/')?;
        Some((space, name, rest, text.as_str()))
    })
}

fn read<T: serde::de::DeserializeOwned>(text: &str) -> Option<T> {
    let read = serde_json::from_str(text);
    if let Err(error) = &read {
        tracing::error!(%error, "the simulated cloud cannot read a part of its memory");
    }
    read.ok()
}

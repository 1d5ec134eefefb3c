//! The things of one simulated cluster: what is there, what was, what holds what, and what is due.
//!
//! Time is an argument. What happens by itself (a deletion ends, a late create arrives, something vanishes) is due at
//! a moment and is done at the next look after it: nobody can tell the difference, and no task has to survive a crash.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::Ipv4Addr;

use provisor_core::cluster::ProviderType;
use provisor_core::workflow::Found;
use provisor_core::{AttemptId, Chance as _, RequestId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::disk::Change;
use crate::port::{Order, Registration};
use crate::ports::{self, Way};
use crate::roll::{roll, uuid};
use crate::settings::Settings;
use crate::table::{Key, Operation, Played};

/// Gone resources that are kept to be shown; the oldest are forgotten first.
const GONE_KEPT: usize = 100_000;
/// Verdicts of `success_rate` that are kept; the oldest are forgotten first.
const VERDICTS_KEPT: usize = 100_000;

/// One thing in the cloud.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Resource {
    /// Counts everything ever made in the cluster.
    pub(crate) number: u64,
    pub(crate) id: String,
    pub(crate) uid: Option<String>,
    pub(crate) kind: String,
    pub(crate) plays: ProviderType,
    pub(crate) name: String,
    pub(crate) tag: String,
    pub(crate) request: RequestId,
    pub(crate) attempt: Option<AttemptId>,
    pub(crate) request_name: String,
    pub(crate) tenant: String,
    pub(crate) made_at: Timestamp,
    pub(crate) gone_at: Option<Timestamp>,
    /// It is being deleted and is gone then.
    pub(crate) leaving: Option<Timestamp>,
    /// It is gone then without anybody's doing.
    pub(crate) vanishes: Option<Timestamp>,
    /// It is finished then.
    pub(crate) built_at: Timestamp,
    /// It is switched on.
    pub(crate) power: bool,
    /// It has booted then.
    pub(crate) ready_at: Timestamp,
    /// Keys of what cannot go while it is there.
    pub(crate) uses: Vec<String>,
    /// Key of what takes it along.
    pub(crate) inside: Option<String>,
    pub(crate) address: Option<Ipv4Addr>,
    pub(crate) ports: Vec<(u16, Way)>,
    pub(crate) rules: BTreeSet<u16>,
    pub(crate) memory_gb: u32,
    /// When a waiting operation on it is done, by operation and item, with the try that began it.
    pub(crate) dues: BTreeMap<String, (u32, Timestamp)>,
}

impl Resource {
    /// Names it within its cluster.
    pub(crate) fn key(&self) -> String {
        key(&self.kind, &self.id)
    }

    /// The attempt that it belongs to.
    pub(crate) fn stack(&self) -> String {
        self.attempt.map_or_else(|| self.request.to_string(), |a| a.to_string())
    }

    /// As a search shows it.
    pub(crate) fn found(&self, now: Timestamp) -> Found {
        let age = u64::try_from(now.since(self.made_at).0 / 1_000_000).ok();
        Found {
            kind: self.kind.clone(),
            provider_id: self.id.clone(),
            uid: self.uid.clone(),
            tag: self.tag.clone(),
            age_seconds: age,
            spoiled: false,
        }
    }

    /// What must be unique where the name is the key.
    fn name_key(&self) -> String {
        format!("{}/{}/{}", self.kind, self.inside.as_deref().unwrap_or_default(), self.name)
    }
}

/// Names a resource within its cluster.
pub(crate) fn key(kind: &str, id: &str) -> String {
    format!("{kind}/{id}")
}

/// A create that arrives after its deadline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Late {
    pub(crate) due: Timestamp,
    pub(crate) order: Order,
}

/// How often an operation was called, and with what result.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Calls {
    pub(crate) count: u64,
    pub(crate) results: BTreeMap<String, u64>,
}

/// What is kept of a cluster beside its resources.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Head {
    pub(crate) identity: String,
    pub(crate) registration: Registration,
    pub(crate) number: u64,
}

/// One simulated cluster.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) name: String,
    pub(crate) head: Head,
    pub(crate) settings: Settings,
    pub(crate) live: BTreeMap<String, Resource>,
    pub(crate) gone: VecDeque<Resource>,
    pub(crate) late: BTreeMap<u64, Late>,
    pub(crate) calls: BTreeMap<String, Calls>,
    /// Counts of calls by fault rule, and of draws by step.
    pub(crate) counts: BTreeMap<String, u64>,
    pub(crate) verdicts: BTreeMap<String, bool>,
    by_tag: BTreeMap<String, BTreeSet<String>>,
    names: BTreeMap<String, String>,
    holders: BTreeMap<String, BTreeSet<String>>,
    children: BTreeMap<String, BTreeSet<String>>,
    stacks: BTreeMap<String, BTreeSet<String>>,
    schedule: BTreeSet<(Timestamp, String)>,
    /// What is to be written since the last flush.
    changes: Vec<Change>,
    /// Whether one of them must be written before the answer.
    pub(crate) durable: bool,
    /// Attempts whose services may have changed.
    pub(crate) touched: BTreeSet<String>,
}

/// What a create came to.
pub(crate) enum Outcome {
    /// The key of what was made.
    Made(String),
    /// The key of what is there already.
    Exists(String),
    /// The key of what is needed and not there.
    Missing(String),
}

impl Cluster {
    /// A cluster with nothing in it.
    pub(crate) fn new(name: &str, head: Head) -> Self {
        let settings = Settings::read("", &head.registration.settings, &mut provisor_core::check::Flaws::default());
        Self {
            name: name.to_owned(),
            head,
            settings,
            live: BTreeMap::new(),
            gone: VecDeque::new(),
            late: BTreeMap::new(),
            calls: BTreeMap::new(),
            counts: BTreeMap::new(),
            verdicts: BTreeMap::new(),
            by_tag: BTreeMap::new(),
            names: BTreeMap::new(),
            holders: BTreeMap::new(),
            children: BTreeMap::new(),
            stacks: BTreeMap::new(),
            schedule: BTreeSet::new(),
            changes: Vec::new(),
            durable: false,
            touched: BTreeSet::new(),
        }
    }

    /// Takes new settings. Counts of fault rules that are no longer there are forgotten.
    pub(crate) fn register(&mut self, registration: Registration) {
        if self.head.registration == registration {
            return;
        }
        self.settings = Settings::read("", &registration.settings, &mut provisor_core::check::Flaws::default());
        let kept: BTreeSet<&str> = self.settings.faults.iter().map(|f| f.key.as_str()).collect();
        self.counts.retain(|k, _| k.starts_with("success/") || kept.contains(k.as_str()));
        self.head.registration = registration;
        self.touched.extend(self.stacks.keys().cloned());
        self.save_counts();
        self.save_head();
    }

    /// Notes a change to be written.
    pub(crate) fn save<T: Serialize>(&mut self, space: &str, rest: &str, value: Option<&T>) {
        let key = format!("{space}/{}/{rest}", self.name);
        self.changes.push((key, value.and_then(|v| serde_json::to_string(v).ok())));
    }

    pub(crate) fn save_head(&mut self) {
        let head = self.head.clone();
        self.save("c", "", Some(&head));
        self.durable = true;
    }

    pub(crate) fn save_counts(&mut self) {
        let counts = std::mem::take(&mut self.counts);
        self.save("f", "", Some(&counts));
        self.counts = counts;
    }

    /// Writes a resource that changed.
    pub(crate) fn save_resource(&mut self, key: &str) {
        let Some(resource) = self.live.get(key) else { return };
        let text = serde_json::to_string(resource).ok();
        self.changes.push((format!("r/{}/{:016}", self.name, resource.number), text));
        self.touched.insert(resource.stack());
        self.durable = true;
    }

    /// What is to be written now, and whether the answer waits for it.
    pub(crate) fn take_changes(&mut self) -> (Vec<Change>, bool) {
        (std::mem::take(&mut self.changes), std::mem::take(&mut self.durable))
    }

    /// Puts a resource that was read back into its place.
    pub(crate) fn restore(&mut self, resource: Resource) {
        if resource.gone_at.is_some() {
            self.gone.push_back(resource);
        } else {
            self.touched.insert(resource.stack());
            self.index(&resource);
            self.live.insert(resource.key(), resource);
        }
    }

    fn index(&mut self, r: &Resource) {
        let key = r.key();
        self.by_tag.entry(r.tag.clone()).or_default().insert(key.clone());
        self.stacks.entry(r.stack()).or_default().insert(key.clone());
        for used in &r.uses {
            self.holders.entry(used.clone()).or_default().insert(key.clone());
        }
        if let Some(outer) = &r.inside {
            self.children.entry(outer.clone()).or_default().insert(key.clone());
        }
        self.schedule.extend(r.leaving.into_iter().chain(r.vanishes).map(|at| (at, key.clone())));
        self.names.insert(r.name_key(), key);
    }

    fn unindex(&mut self, r: &Resource) {
        let key = r.key();
        take_out(&mut self.by_tag, &r.tag, &key);
        take_out(&mut self.stacks, &r.stack(), &key);
        for used in &r.uses {
            take_out(&mut self.holders, used, &key);
        }
        if let Some(outer) = &r.inside {
            take_out(&mut self.children, outer, &key);
        }
        for at in r.leaving.into_iter().chain(r.vanishes) {
            self.schedule.remove(&(at, key.clone()));
        }
        if self.names.get(&r.name_key()) == Some(&key) {
            self.names.remove(&r.name_key());
        }
    }

    /// Does what is due.
    pub(crate) fn tick(&mut self, now: Timestamp) {
        while let Some((at, key)) = self.schedule.first().filter(|(at, _)| *at <= now).cloned() {
            self.schedule.remove(&(at, key.clone()));
            self.remove(&key, at);
        }
        let due: Vec<u64> = self.late.iter().filter(|(_, l)| l.due <= now).map(|(n, _)| *n).collect();
        for number in due {
            let Some(late) = self.late.remove(&number) else { continue };
            self.save::<Late>("l", &number.to_string(), None);
            let played = Played::of(late.order.plays);
            if let Some((played, operation)) = played.and_then(|p| Some((p, p.operation(&late.order.operation, false)?))) {
                self.make(&late.order, played, operation, late.due);
            }
        }
    }

    /// A create that arrives later.
    pub(crate) fn arrives_late(&mut self, order: &Order, due: Timestamp) {
        self.head.number += 1;
        let number = self.head.number;
        let late = Late { due, order: order.clone() };
        self.save("l", &number.to_string(), Some(&late));
        self.late.insert(number, late);
        self.save_head();
    }

    /// Makes what an operation makes, where its needs are there and its key is free.
    pub(crate) fn make(&mut self, order: &Order, played: &Played, operation: &Operation, now: Timestamp) -> Outcome {
        let mut needs = Vec::new();
        for kind in operation.needs {
            let id = order.resources.get(*kind).map_or("", String::as_str);
            let needed = key(kind, id);
            if self.live.get(&needed).is_none_or(|r| r.leaving.is_some()) {
                return Outcome::Missing(needed);
            }
            needs.push(needed);
        }
        let (inside, uses) = if played.container.is_some() { (needs.pop(), needs) } else { (None, needs) };
        let number = self.head.number + 1;
        let mut resource = self.blank(order, played, operation, number, now);
        resource.inside = inside;
        resource.uses = uses;
        if let Some(taken) = self.identify(&mut resource, played.key) {
            return Outcome::Exists(taken);
        }
        self.head.number = number;
        self.save_head();
        let key = resource.key();
        self.index(&resource);
        self.live.insert(key.clone(), resource);
        self.save_resource(&key);
        Outcome::Made(key)
    }

    fn blank(&self, order: &Order, played: &Played, operation: &Operation, number: u64, now: Timestamp) -> Resource {
        let boots_later = played.attempt.iter().any(|o| o.effect == crate::table::Effect::PowerOn);
        let is_front = operation.kind == played.front && played.container.is_none();
        Resource {
            number,
            id: String::new(),
            uid: None,
            kind: operation.kind.to_owned(),
            plays: order.plays,
            name: order.name.clone(),
            tag: order.tag.clone().unwrap_or_default(),
            request: order.request,
            attempt: order.attempt,
            request_name: order.request_name.clone(),
            tenant: order.tenant.clone(),
            made_at: now,
            gone_at: None,
            leaving: None,
            vanishes: None,
            built_at: now,
            power: operation.kind == played.host && !boots_later,
            ready_at: now,
            uses: Vec::new(),
            inside: None,
            address: is_front.then(|| self.address(number)),
            ports: order.ports.clone(),
            rules: BTreeSet::new(),
            memory_gb: order.memory_gb,
            dues: BTreeMap::new(),
        }
    }

    /// Gives it its id; the key of another where its own key is taken.
    fn identify(&self, resource: &mut Resource, key_is: Key) -> Option<String> {
        let fresh = || uuid(0, &[&self.head.identity, "id"], resource.number);
        match (key_is, resource.plays) {
            (Key::None, _) => resource.id = fresh(),
            (Key::Name, plays) => {
                if let Some(taken) = self.names.get(&resource.name_key()) {
                    return Some(taken.clone());
                }
                resource.uid = Some(fresh());
                resource.id = match (plays, &resource.inside) {
                    (ProviderType::Vmware, _) => format!("vm-{}", resource.number),
                    (_, Some(outer)) => format!("{}/{}", outer.split_once('/').map_or("", |(_, n)| n), resource.name),
                    (_, None) => resource.name.clone(),
                };
            }
            (Key::Number, _) => {
                // The number follows from the tag, so that the same create asks for the same one.
                let first = roll(0, &[&resource.tag], 0).below(999_000_000);
                for number in first.. {
                    resource.id = (number + 100).to_string();
                    match self.live.get(&resource.key()) {
                        None => break,
                        Some(other) if other.tag == resource.tag => return Some(resource.key()),
                        Some(_) => {}
                    }
                }
            }
        }
        None
    }

    /// A loopback address of its own for each number, away from 127.0.*, by the cloud's identity: several clouds on
    /// one machine stay out of each other's way.
    fn address(&self, number: u64) -> Ipv4Addr {
        let bits = roll(0, &[&self.head.identity, "address"], number).next_u64().to_be_bytes();
        let [a, b, c, ..] = bits;
        Ipv4Addr::new(127, a.clamp(1, 254), b, c.clamp(1, 254))
    }

    /// Begins a deletion that ends at `at`.
    pub(crate) fn leave(&mut self, key: &str, at: Timestamp) {
        let Some(resource) = self.live.get_mut(key) else { return };
        resource.leaving = Some(at);
        self.schedule.insert((at, key.to_owned()));
        self.save_resource(key);
    }

    /// It will be gone then by itself.
    pub(crate) fn vanish(&mut self, key: &str, at: Timestamp) {
        let Some(resource) = self.live.get_mut(key) else { return };
        resource.vanishes = Some(at);
        self.schedule.insert((at, key.to_owned()));
        self.save_resource(key);
    }

    /// It is gone, with everything inside it.
    pub(crate) fn remove(&mut self, key: &str, at: Timestamp) {
        let Some(mut resource) = self.live.remove(key) else { return };
        self.unindex(&resource);
        resource.gone_at = Some(at);
        let record = format!("{:016}", resource.number);
        self.save("r", &record, Some(&resource));
        self.touched.insert(resource.stack());
        self.durable = true;
        self.gone.push_back(resource);
        if self.gone.len() > GONE_KEPT
            && let Some(old) = self.gone.pop_front()
        {
            self.save::<Resource>("r", &format!("{:016}", old.number), None);
        }
        for child in self.children.remove(key).unwrap_or_default() {
            self.remove(&child, at);
        }
    }

    /// One of those that keep it from going. An address that floats keeps nothing: it is taken off.
    pub(crate) fn holder(&self, key: &str) -> Option<&str> {
        let floats = |r: &Resource| Played::of(r.plays).is_some_and(|p| p.front != p.host && p.front == r.kind);
        let holds = |holder: &&String| !self.live.get(*holder).is_some_and(floats);
        self.holders.get(key)?.iter().find(holds).map(String::as_str)
    }

    /// Everything live with tags from `from` on that begin with `prefix`, in order of their tags.
    pub(crate) fn tagged<'a>(&'a self, prefix: &'a str, from: &str) -> impl Iterator<Item = (&'a String, &'a Resource)> {
        let start = if from > prefix { from.to_owned() } else { prefix.to_owned() };
        let tags = self.by_tag.range(start..).take_while(move |(t, _)| t.starts_with(prefix));
        tags.flat_map(move |(t, keys)| keys.iter().filter_map(move |k| Some((t, self.live.get(k)?))))
    }

    /// What an attempt has.
    pub(crate) fn stack<'a>(&'a self, stack: &str) -> impl Iterator<Item = &'a Resource> {
        self.stacks.get(stack).into_iter().flatten().filter_map(|k| self.live.get(k))
    }

    /// Notes how a draw ended.
    pub(crate) fn note_verdict(&mut self, name: String, good: bool) {
        self.save("v", &name, Some(&good));
        self.durable = true;
        self.verdicts.insert(name, good);
        if self.verdicts.len() > VERDICTS_KEPT
            && let Some((old, _)) = self.verdicts.pop_first()
        {
            self.save::<bool>("v", &old, None);
        }
    }

    /// The address of a host and the ports that answer on it now.
    pub(crate) fn services(&self, host: &Resource, now: Timestamp) -> Option<(Ipv4Addr, Vec<(u16, Way)>)> {
        let played = Played::of(host.plays)?;
        if !host.power || host.leaving.is_some() || host.ready_at > now || host.kind != played.host {
            return None;
        }
        let stack = host.stack();
        let front = if played.front == played.host {
            host.address
        } else {
            let shares =
                |r: &&Resource| r.kind == played.front && r.leaving.is_none() && r.uses.iter().any(|u| host.uses.contains(u));
            self.stack(&stack).find(shares).and_then(|r| r.address)
        };
        let open = |port: u16| match played.rules {
            None => true,
            Some(kind) if kind == played.host => host.rules.contains(&port),
            Some(kind) => self.stack(&stack).any(|r| r.kind == kind && r.rules.contains(&port)),
        };
        let ports: Vec<(u16, Way)> = match host.plays {
            ProviderType::Argocd => vec![(80, Way::Http)],
            _ => host.ports.iter().filter(|(p, _)| open(*p)).copied().collect(),
        };
        Some((front?, ports))
    }

    /// Every socket on which an attempt's services answer now.
    pub(crate) fn sockets(&self, stack: &str, now: Timestamp) -> Vec<(std::net::SocketAddrV4, Way)> {
        if !self.settings.listeners || self.settings.offline {
            return Vec::new();
        }
        let services = self.stack(stack).filter_map(|r| self.services(r, now));
        services.flat_map(|(a, all)| all.into_iter().map(move |(p, w)| (ports::socket(a, p), w))).collect()
    }
}

fn take_out(map: &mut BTreeMap<String, BTreeSet<String>>, key: &str, item: &str) {
    if let Some(set) = map.get_mut(key) {
        set.remove(item);
        if set.is_empty() {
            map.remove(key);
        }
    }
}

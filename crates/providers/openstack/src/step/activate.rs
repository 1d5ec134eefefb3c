//! Activate: wait until the server runs; and for a standing service stop it, start it.
//!
//! `ACTIVE` alone is not enough: while a task is under way the status is that of before, and after a host's trouble
//! the power state tells more. A server in ERROR is never waited for or adopted: it is spoiled and made anew.
//!
//! An action on a server is asked for once in a try, and again by the next try. Nova accepts a start that then fails
//! without a word (202, and the server is `SHUTOFF` again with no task and no fault), so what was asked must be
//! remembered to be seen as failed. It is remembered in this process only: whoever does not know asks once more, which
//! harms nothing, while a fact in the store would outlive its try and be taken for one of a later action.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use provisor_core::workflow::Made;
use provisor_core::workflow::call::Work;
use provisor_core::{Class, Failure};
use provisor_provider::Progress;
use serde_json::{Value, json};

use super::{has, running, vanished};
use crate::Openstack;
use crate::classify;
use crate::client::Call;
use crate::config::Suspend;
use crate::objects::{Object, text};

/// Nova's power state of a running guest.
const RUNNING: u64 = 1;

/// What is to be seen of a server.
struct Sight {
    status: String,
    task: Option<String>,
    power: Option<u64>,
    fault: Option<String>,
    locked: bool,
    /// The lock is one that we set when we suspended it.
    locked_by_us: bool,
}

/// How the reason of a lock of ours begins.
const LOCK_REASON: &str = "suspended by Provisor";

impl Sight {
    fn of(server: &Value) -> Self {
        Self {
            status: text(server, "status").unwrap_or("UNKNOWN").to_owned(),
            task: text(server, "OS-EXT-STS:task_state").map(str::to_owned),
            power: server.get("OS-EXT-STS:power_state").and_then(Value::as_u64),
            fault: server.get("fault").and_then(|fault| text(fault, "message")).map(str::to_owned),
            locked: server.get("locked") == Some(&Value::Bool(true)),
            locked_by_us: text(server, "locked_reason").is_some_and(|reason| reason.starts_with(LOCK_REASON)),
        }
    }

    fn is_up(&self) -> bool {
        self.status == "ACTIVE" && self.task.is_none() && self.power == Some(RUNNING)
    }

    fn words(&self) -> String {
        let task = self.task.as_deref().map_or_else(String::new, |task| format!("/{task}"));
        let power = match (self.status.as_str(), self.power) {
            ("ACTIVE", Some(state)) if state != RUNNING => format!(", power state {state}"),
            _ => String::new(),
        };
        format!("{}{task}{power}", self.status)
    }
}

async fn look(cloud: &Openstack, id: &str) -> Result<Sight, Failure> {
    let read = Object::Server.read(&cloud.client, id).await.map_err(|e| classify::failure(&e))?;
    let server = read.ok_or_else(|| vanished(Object::Server, id))?;
    let sight = Sight::of(&server);
    match sight.status.as_str() {
        "DELETED" | "SOFT_DELETED" => Err(vanished(Object::Server, id)),
        _ => Ok(sight),
    }
}

/// Waits until the server runs; starts it where it was left switched off.
pub(crate) async fn wait_server(cloud: &Openstack, work: &Work) -> Result<Progress, Failure> {
    let id = has(work, Object::Server)?;
    let sight = look(cloud, id).await?;
    match (sight.status.as_str(), &sight.task) {
        _ if sight.is_up() => Ok(done(cloud, id)),
        ("ERROR", _) => {
            Err(classify::server_fault(id, sight.fault.as_deref().unwrap_or("Nova gives no reason"), work.try_number))
        }
        ("SHUTOFF", None) => ask(cloud, work, id, &sight, json!({"os-start": null})).await,
        _ => Ok(running(Made::default(), sight.words())),
    }
}

/// Suspends a service, keeping everything: off, or shelved where the settings say so.
pub(crate) async fn stop_server(cloud: &Openstack, work: &Work) -> Result<Progress, Failure> {
    let id = has(work, Object::Server)?;
    let sight = look(cloud, id).await?;
    let shelve = cloud.settings.suspend == Suspend::Shelve;
    match (sight.status.as_str(), &sight.task) {
        (_, Some(_)) => Ok(running(Made::default(), sight.words())),
        ("SHELVED" | "SHELVED_OFFLOADED", None) => keep_off(cloud, work, id, &sight).await,
        ("SHUTOFF", None) if !shelve => keep_off(cloud, work, id, &sight).await,
        (_, None) => {
            let action = if shelve { json!({"shelve": null}) } else { json!({"os-stop": null}) };
            ask(cloud, work, id, &sight, action).await
        }
    }
}

/// It is off; locked as well where the settings say so. A lock is no power switch, so it is not counted as one: it
/// may be asked for as often as it takes.
async fn keep_off(cloud: &Openstack, work: &Work, id: &str, sight: &Sight) -> Result<Progress, Failure> {
    if sight.locked || !cloud.settings.lock_suspended {
        return Ok(done(cloud, id));
    }
    let reason = format!("{LOCK_REASON}: {}", work.request);
    act(cloud, id, json!({"lock": {"locked_reason": reason}})).await?;
    Ok(running(Made::default(), format!("{}, lock accepted", sight.words())))
}

/// Starts a suspended service, however it was stopped.
pub(crate) async fn start_server(cloud: &Openstack, work: &Work) -> Result<Progress, Failure> {
    let id = has(work, Object::Server)?;
    let sight = look(cloud, id).await?;
    match (sight.status.as_str(), &sight.task) {
        // Whoever else locked it had a reason of their own, which the refusal of the start then tells.
        _ if sight.locked && sight.locked_by_us => {
            act(cloud, id, json!({"unlock": null})).await?;
            Ok(running(Made::default(), format!("{}, unlock accepted", sight.words())))
        }
        _ if sight.is_up() => Ok(done(cloud, id)),
        ("SHELVED" | "SHELVED_OFFLOADED", None) => ask(cloud, work, id, &sight, json!({"unshelve": null})).await,
        ("PAUSED", None) => ask(cloud, work, id, &sight, json!({"unpause": null})).await,
        ("SUSPENDED", None) => ask(cloud, work, id, &sight, json!({"resume": null})).await,
        ("SHUTOFF" | "ERROR", None) => ask(cloud, work, id, &sight, json!({"os-start": null})).await,
        _ => Ok(running(Made::default(), sight.words())),
    }
}

/// Which try of which operation last asked for something, by server.
#[derive(Debug, Default)]
pub(crate) struct Asked(Mutex<BTreeMap<String, (String, u32)>>);

impl Asked {
    /// Notes that a try asks; `false` when it has done so before.
    fn note(&self, id: &str, work: &Work) -> bool {
        let now = (work.operation.clone(), work.try_number);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(id.to_owned(), now.clone()) != Some(now)
    }

    /// The operation has ended, or the asking failed.
    fn forget(&self, id: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }
}

/// The server is as it should be.
fn done(cloud: &Openstack, id: &str) -> Progress {
    cloud.asked.forget(id);
    Progress::Done(Made::default())
}

/// Asks for an action, once in a try.
async fn ask(cloud: &Openstack, work: &Work, id: &str, sight: &Sight, action: Value) -> Result<Progress, Failure> {
    if !cloud.asked.note(id, work) {
        cloud.asked.forget(id);
        let message = format!("{} was accepted, but server {id} is {} again", work.operation, sight.words());
        return Err(Failure::new(Class::Transient, "action_without_effect", message));
    }
    let Err(failure) = act(cloud, id, action).await else {
        return Ok(running(Made::default(), format!("{}, {} accepted", sight.words(), work.operation)));
    };
    cloud.asked.forget(id);
    // The state changed since we looked: the next look sees it.
    if failure.code == "conflict" { Ok(running(Made::default(), sight.words())) } else { Err(failure) }
}

async fn act(cloud: &Openstack, id: &str, action: Value) -> Result<(), Failure> {
    let path = format!("{}/action", Object::Server.path(id));
    let answer = cloud.client.call(Call::post(Object::Server.service(), path, action)).await;
    answer.map(drop).map_err(|error| classify::failure(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn up_means_active_powered_and_without_a_task() {
        let sight = |status: &str, task: Option<&str>, power: u64| {
            Sight::of(&json!({"status": status, "OS-EXT-STS:task_state": task, "OS-EXT-STS:power_state": power}))
        };
        assert!(sight("ACTIVE", None, 1).is_up());
        assert!(!sight("ACTIVE", Some("powering-off"), 1).is_up());
        assert!(!sight("ACTIVE", None, 4).is_up());
        assert_eq!(sight("BUILD", Some("spawning"), 0).words(), "BUILD/spawning");
        assert_eq!(sight("ACTIVE", None, 4).words(), "ACTIVE, power state 4");
    }
}

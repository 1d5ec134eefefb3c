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
}

impl Sight {
    fn of(server: &Value) -> Self {
        Self {
            status: text(server, "status").unwrap_or("UNKNOWN").to_owned(),
            task: text(server, "OS-EXT-STS:task_state").map(str::to_owned),
            power: server.get("OS-EXT-STS:power_state").and_then(Value::as_u64),
            fault: server.get("fault").and_then(|fault| text(fault, "message")).map(str::to_owned),
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
        ("ERROR", _) => Err(classify::server_fault(id, sight.fault.as_deref().unwrap_or("Nova gives no reason"))),
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
        ("SHELVED" | "SHELVED_OFFLOADED", None) => Ok(done(cloud, id)),
        ("SHUTOFF", None) if !shelve => Ok(done(cloud, id)),
        (_, None) => {
            let action = if shelve { json!({"shelve": null}) } else { json!({"os-stop": null}) };
            ask(cloud, work, id, &sight, action).await
        }
    }
}

/// Starts a suspended service, however it was stopped.
pub(crate) async fn start_server(cloud: &Openstack, work: &Work) -> Result<Progress, Failure> {
    let id = has(work, Object::Server)?;
    let sight = look(cloud, id).await?;
    match (sight.status.as_str(), &sight.task) {
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
    let path = format!("{}/action", Object::Server.path(id));
    let Err(error) = cloud.client.call(Call::post(Object::Server.service(), path, action)).await else {
        return Ok(running(Made::default(), format!("{}, {} accepted", sight.words(), work.operation)));
    };
    cloud.asked.forget(id);
    let failure = classify::failure(&error);
    // The state changed since we looked: the next look sees it.
    if failure.code == "conflict" { Ok(running(Made::default(), sight.words())) } else { Err(failure) }
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

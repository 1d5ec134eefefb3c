//! Release: read, check that it is ours, delete, and say gone only when it is seen to be gone.
//!
//! The order between objects is the ledger's. Here is what one object needs: a server that lost its DELETE (the host
//! was restarted meanwhile: ERROR again) is deleted again, a locked one is unlocked, a soft-deleted one is deleted for
//! good; a volume is left alone while it is still attached; a group that is still used is looked at again later.

use provisor_core::workflow::call::Held;
use provisor_core::{Class, Failure};
use provisor_provider::Released;
use serde_json::{Value, json};

use crate::Openstack;
use crate::classify;
use crate::client::{Call, CallError};
use crate::objects::{Object, text};

/// Releases one resource.
pub(crate) async fn release(cloud: &Openstack, held: &Held) -> Result<Released, Failure> {
    let object = Object::of(&held.kind)
        .ok_or_else(|| Failure::new(Class::Permanent, "unknown_kind", format!("OpenStack has no kind {:?}", held.kind)))?;
    check_identity(cloud, held).await?;
    let id = &held.provider_id;
    let Some(found) = read(cloud, object, id).await? else { return Ok(Released::Gone) };
    if object.tag(&found) != Some(held.tag.as_str()) {
        return Ok(Released::Replaced);
    }
    let step = match object {
        Object::Server => server(&found),
        Object::Volume => volume(&found),
        Object::SecurityGroup | Object::Port | Object::Rule | Object::FloatingIp => Step::Delete,
    };
    let seen = match step {
        Step::Wait(seen) => return Ok(running(seen)),
        Step::Delete => {
            let call = Call::delete(object.service(), object.path(id));
            asked(cloud.client.call(call).await)?
        }
        Step::Act(action) => {
            let call = Call::post(object.service(), format!("{}/action", object.path(id)), action);
            asked(cloud.client.call(call).await)?
        }
    };
    if let Some(in_the_way) = seen {
        return Ok(running(in_the_way));
    }
    // Neutron deletes before it answers, so the absence can be seen at once; the others take their time.
    let slow = matches!(object, Object::Server | Object::Volume);
    if !slow && read(cloud, object, id).await?.is_none() {
        return Ok(Released::Gone);
    }
    Ok(running("deleting".to_owned()))
}

/// A 404 of another project proves nothing (H4).
async fn check_identity(cloud: &Openstack, held: &Held) -> Result<(), Failure> {
    let session = cloud.client.session(None).await.map_err(|e| classify::failure(&e))?;
    match &held.identity {
        Some(identity) if *identity != session.project_id => {
            let message = format!(
                "{} {} was made in project {identity}, and the credentials are now of project {}",
                held.kind, held.provider_id, session.project_id
            );
            Err(Failure::new(Class::Auth, "identity_changed", message))
        }
        _ => Ok(()),
    }
}

/// What comes next for an object that is there and ours.
enum Step {
    Delete,
    Act(Value),
    Wait(String),
}

fn server(found: &Value) -> Step {
    let status = text(found, "status").unwrap_or("UNKNOWN");
    let task = text(found, "OS-EXT-STS:task_state");
    match (status, task) {
        ("DELETED", _) => Step::Wait("DELETED".to_owned()),
        ("SOFT_DELETED", None) => Step::Act(json!({"forceDelete": null})),
        // ERROR with the task still set is a DELETE that was lost on the way.
        (status, Some(task)) if task.contains("deleting") && status != "ERROR" => Step::Wait(format!("{status}/{task}")),
        _ if found.get("locked") == Some(&Value::Bool(true)) => Step::Act(json!({"unlock": null})),
        _ => Step::Delete,
    }
}

fn volume(found: &Value) -> Step {
    let status = text(found, "status").unwrap_or("unknown");
    match status {
        // Only an administrator can help it; where we are one, this does.
        "error_deleting" => Step::Act(json!({"os-force_delete": {}})),
        "available" => Step::Delete,
        bad if bad.starts_with("error") => Step::Delete,
        busy => Step::Wait(busy.to_owned()),
    }
}

/// The answer to a delete: `Some` where something of ours is still in the way, an error where waiting does not help.
fn asked(result: Result<Value, CallError>) -> Result<Option<String>, Failure> {
    match result {
        Ok(_) => Ok(None),
        Err(error) if error.is_absent() => Ok(None),
        Err(error) => {
            let failure = classify::failure(&error);
            if matches!(failure.code.as_str(), "in_use" | "conflict") { Ok(Some(failure.message)) } else { Err(failure) }
        }
    }
}

async fn read(cloud: &Openstack, object: Object, id: &str) -> Result<Option<Value>, Failure> {
    object.read(&cloud.client, id).await.map_err(|e| classify::failure(&e))
}

fn running(seen: String) -> Released {
    Released::Running { seen, look_again: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(step: &Step) -> String {
        match step {
            Step::Delete => "delete".into(),
            Step::Act(action) => action.to_string(),
            Step::Wait(seen) => format!("wait {seen}"),
        }
    }

    #[test]
    fn each_state_of_a_server_has_its_next_step() {
        let step = |status: &str, task: Option<&str>, locked: bool| {
            word(&server(&json!({"status": status, "OS-EXT-STS:task_state": task, "locked": locked})))
        };
        assert_eq!(step("ACTIVE", None, false), "delete");
        assert_eq!(step("BUILD", Some("spawning"), false), "delete");
        assert_eq!(step("BUILD", Some("deleting"), false), "wait BUILD/deleting");
        assert_eq!(step("ERROR", Some("deleting"), false), "delete");
        assert_eq!(step("ERROR", None, false), "delete");
        assert_eq!(step("SOFT_DELETED", None, false), "{\"forceDelete\":null}");
        assert_eq!(step("SHUTOFF", None, true), "{\"unlock\":null}");
    }

    #[test]
    fn each_state_of_a_volume_has_its_next_step() {
        let step = |status: &str| word(&volume(&json!({"status": status})));
        assert_eq!(step("available"), "delete");
        assert_eq!(step("error"), "delete");
        assert_eq!(step("in-use"), "wait in-use");
        assert_eq!(step("detaching"), "wait detaching");
        assert_eq!(step("error_deleting"), "{\"os-force_delete\":{}}");
    }
}

//! The operations of a plan, one module for each of the four steps.

pub(crate) mod activate;
pub(crate) mod allocate;
pub(crate) mod configure;
pub(crate) mod verify;

use provisor_core::workflow::Made;
use provisor_core::workflow::call::Work;
use provisor_core::{Class, Failure};
use provisor_provider::Progress;
use serde_json::Value;

use crate::objects::{Object, text};

/// The id of what the attempt has of a kind; an operation without it was called out of order.
pub(crate) fn has(work: &Work, object: Object) -> Result<&str, Failure> {
    work.resources.get(object.kind()).map(String::as_str).ok_or_else(|| {
        let message = format!("{} needs the attempt's {}, and there is none", work.operation, object.kind());
        Failure::new(Class::Permanent, "missing_resource", message)
    })
}

/// The tag of what the operation makes.
pub(crate) fn tag(work: &Work) -> Result<&str, Failure> {
    work.tag.as_ref().map(provisor_core::id::Tag::as_str).ok_or_else(|| {
        Failure::new(Class::Permanent, "missing_tag", format!("{} makes something and was given no tag", work.operation))
    })
}

/// An object was made: its id. Without one in the answer nobody knows what was made.
pub(crate) fn made(object: Object, answer: &Value) -> Result<Made, Failure> {
    let id = text(answer, "id").ok_or_else(|| {
        let message = format!("the answer to the creation of a {} holds no id", object.kind());
        Failure::new(Class::Ambiguous, "unexpected_answer", message)
    })?;
    Ok(Made { provider_id: Some(id.to_owned()), ..Made::default() })
}

/// Under way; the engine says when to look again.
pub(crate) fn running(made: Made, seen: impl Into<String>) -> Progress {
    Progress::Running { made, seen: seen.into(), look_again: None }
}

/// What was being made is not there any more: to be made anew.
pub(crate) fn vanished(object: Object, id: &str) -> Failure {
    Failure::new(Class::Transient, "vanished", format!("{} {id} is not there any more", object.kind())).spoiled()
}

//! What a fact of the log teaches of how long operations and steps take.

use serde::Deserialize;
use serde_json::Value;

use super::{Key, Lesson};
use crate::cluster::ProviderType;
use crate::event::EventKind;
use crate::id::ClusterId;
use crate::run::Try;
use crate::sketch::End;
use crate::time::Span;

#[derive(Deserialize)]
struct Detail {
    class: ClassOf,
    status: String,
    operation: Option<String>,
    seconds: Option<Span>,
    #[serde(default)]
    tries: Vec<Try>,
}

#[derive(Deserialize)]
struct ClassOf {
    provider: ProviderType,
    cluster: ClusterId,
    size: String,
}

/// What an event tells, and of which class. What this release cannot read teaches nothing, and stops nobody.
pub fn ended(kind: EventKind, step: Option<&str>, detail: &Value) -> Option<(Key, Lesson)> {
    let detail = Detail::deserialize(detail).ok()?;
    let done = detail.status == "succeeded";
    let (operation, lesson) = match kind {
        EventKind::OperationDone => (detail.operation?, Lesson::of(&detail.tries, done)),
        EventKind::StepFinished => {
            let end = if done { End::Finished } else { End::Cut };
            let samples = detail.seconds.map(|took| (took, end)).into_iter().collect();
            (format!("step:{}", step?), Lesson { samples, hit: false })
        }
        _ => return None,
    };
    let ClassOf { provider, cluster, size } = detail.class;
    let key = Key { provider, cluster: Some(cluster), operation, size: Some(size) };
    Some((key, lesson)).filter(|(_, lesson)| !lesson.is_empty())
}

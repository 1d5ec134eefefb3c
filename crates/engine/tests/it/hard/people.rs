//! Services that people set up (H17).

use provisor_core::event::Endpoint;
use provisor_core::run::{Command, ManualInput, Run};
use provisor_core::{RequestId, State};
use provisor_store::OpError;
use serde_json::{Value, json};

use crate::ground::Ground;
use crate::steps::{ask, deprovision, sleep, until};
use crate::world::{Test, actor};

async fn managed(ground: Ground, extra: Value) -> (Test, RequestId) {
    let t = Test::start_on(ground, &[], json!({})).await;
    t.register(
        "desk",
        json!({"provider": "manual", "capacity": {}, "settings": {"retry": {"initial_seconds": 1, "cap_seconds": 2}}}),
    )
    .await;
    let mut spec = json!({"name": "erp", "tenant": "acme", "kind": "managed", "product": "erp-licence"});
    for (key, new) in extra.as_object().unwrap() {
        spec[key] = new.clone();
    }
    let id = t.admit(vec![Test::spec_of(&spec)]).await[0];
    until(&t, id, "asked for input", asks).await;
    (t, id)
}

fn asks(run: &Run) -> bool {
    run.waiting.as_ref().is_some_and(|w| w.reason == "manual_input")
}

fn input(url: Option<&str>) -> Command {
    let endpoints = url.map(|url| Endpoint { name: "web".into(), url: url.into() }).into_iter().collect();
    Command::ManualInput(ManualInput { endpoints, credentials: None })
}

async fn refused(t: &Test, id: RequestId, command: Command) {
    let refused = t.engine.command(id, command, actor()).await;
    assert!(matches!(refused, Err(OpError::StateConflict { .. })), "{refused:?}");
}

pub(crate) async fn h17_a_failing_probe_asks_again_and_rolls_nothing_back(ground: Ground) {
    let (t, id) = managed(ground, json!({"probes": {"http": {"path": "/"}}})).await;
    // A typo: nothing there can be probed.
    ask(&t, id, input(Some("tcp://erp.example:1"))).await;
    let run = until(&t, id, "asked again", |r| r.state == State::Verifying && asks(r)).await;
    assert!(run.waiting.unwrap().detail.is_some_and(|d| d.contains("http")), "the error is shown");
    assert_eq!((run.attempts.len(), run.error), (1, None));
    sleep(2000.0).await;
    assert_eq!(t.run_of(id).await.state, State::Verifying, "however long nobody comes");
}

pub(crate) async fn h17_the_first_input_wins_and_actions_wait_for_a_confirmation(ground: Ground) {
    let (t, id) = managed(ground, json!({})).await;
    ask(&t, id, input(Some("https://erp.example"))).await;
    let run = t.until(id, &[State::Completed]).await;
    assert_eq!(run.endpoints()[0].url, "https://erp.example");

    ask(&t, id, Command::Suspend { reason: None }).await;
    let run = until(&t, id, "asked to confirm", asks).await;
    assert_eq!(run.state, State::Completed);
    ask(&t, id, input(None)).await;
    t.until(id, &[State::Suspended]).await;
    ask(&t, id, input(None)).await;
    refused(&t, id, input(Some("https://other.example"))).await;

    ask(&t, id, Command::Reactivate { reason: None }).await;
    until(&t, id, "asked to confirm", asks).await;
    ask(&t, id, input(Some("https://new.example"))).await;
    let run = t.until(id, &[State::Completed]).await;
    assert_eq!(run.endpoints()[0].url, "https://new.example");

    ask(&t, id, deprovision()).await;
    let run = until(&t, id, "asked to confirm", asks).await;
    assert!(run.holds_quota() && run.state == State::RollingBack);
    sleep(100.0).await;
    assert_eq!(t.run_of(id).await.state, State::RollingBack, "only a person sees that it is done");
    ask(&t, id, input(None)).await;
    t.until(id, &[State::RolledBack]).await;
}

//! The first durable reader of the log: what it learns comes to the workers, and counts once (SPEC 3.3).

use provisor_core::State;
use provisor_core::deadline::Key;
use provisor_store::ops::learn::AllLearned;
use serde_json::json;

use crate::world::Test;

#[tokio::test(start_paused = true)]
async fn h30_what_happened_is_learned_once_across_restarts() {
    let mut t = Test::start(&["one"], json!({})).await;
    for n in 0..6 {
        let id = t.admit(vec![Test::spec(&format!("r{n}"), json!({}))]).await[0];
        t.until(id, &[State::Completed]).await;
        if n % 2 == 1 {
            t.crash_and_start().await;
        }
    }
    tokio::time::sleep(std::time::Duration::from_secs(10)).await;
    let known = t.engine.store().run(AllLearned).await.unwrap();
    let of = |name: &str| -> Vec<(Key, u64)> {
        known.iter().filter(|(k, _)| k.operation == name).map(|(k, f)| (k.clone(), f.finished)).collect()
    };
    let server = of("create_server");
    assert_eq!(server.len(), 3, "its class and the two above it: {server:?}");
    assert!(server.iter().all(|(_, finished)| *finished == 6), "{server:?}");
    assert_eq!(of("step:allocate").len(), 3);
}

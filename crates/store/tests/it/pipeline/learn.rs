//! Learning from the log: each operation counts once, whatever is repeated, and what goes wrong is told.

use provisor_core::deadline::{Key, Lesson};
use provisor_core::event::EventKind;
use provisor_core::sketch::End;
use provisor_core::{Span, State};
use provisor_store::OpError;
use provisor_store::ops::learn::{self, AllLearned, Ended, EndedPage, LearnedStamp, ReadEnded, TakeIn};
use provisor_store::ops::log::EntriesOf;
use provisor_store::ops::readers::ReaderPosition;
use serde_json::json;

use super::scene::{Scene, good, managed};

async fn take_in(scene: &Scene, page: EndedPage) -> Result<usize, OpError> {
    let op = TakeIn { page, context: std::sync::Arc::clone(&scene.context) };
    scene.store.run(op).await.map(|changed| changed.len())
}

pub async fn each_operation_counts_once(scene: Scene) {
    let scene = scene.with_one_of_each().await;
    let cluster = scene.cluster_now("one").await.id;
    let id = scene.admit("db", json!({})).await;
    let mut lease = scene.take("w").await;
    loop {
        scene.clock.advance(Span::seconds(2));
        let answers = lease.calls.iter().map(good).collect();
        let settled = scene.settle(&lease, answers).await.unwrap();
        if settled.released {
            break;
        }
        lease.calls = settled.calls;
    }
    assert_eq!(scene.store.run(learn::open()).await, Ok(0));
    let page = scene.store.run(ReadEnded { after: 0 }).await.unwrap();
    let mut names: Vec<&str> = page.ended.iter().map(|e| e.key.operation.as_str()).collect();
    names.sort_unstable();
    let expected = [
        "create_rule",
        "create_server",
        "create_volume",
        "probe_tcp",
        "step:activate",
        "step:allocate",
        "step:configure",
        "step:verify",
        "wait_server",
    ];
    assert_eq!(names, expected);
    assert!(page.at_head && page.ended.iter().all(|e| e.request == id));
    let run = scene.run_of(id).await;
    let key = Key::of(run.attempts[0].provider, cluster, "create_server", &run.spec);
    let server = page.ended.iter().find(|e| e.key == key).unwrap();
    assert_eq!(server.lesson.samples, [(Span::seconds(2), End::Finished)]);
    // Under its three classes each; a repeated or a late page changes nothing.
    assert_eq!(take_in(&scene, page.clone()).await, Ok(27));
    let stamp = scene.store.run(LearnedStamp).await.unwrap();
    assert_eq!(take_in(&scene, page.clone()).await, Err(OpError::Fenced));
    assert_eq!(scene.store.run(LearnedStamp).await, Ok(stamp));
    let known = scene.store.run(AllLearned).await.unwrap();
    assert!(known.len() == 27 && known.iter().all(|(_, figures)| figures.samples == 1), "{known:?}");
    assert!(known.iter().any(|(k, figures)| *k == key && figures.p50.is_some()));
    let again = scene.store.run(ReadEnded { after: page.to }).await.unwrap();
    assert!(again.at_head && again.ended.is_empty());
    assert_eq!(scene.store.run(ReaderPosition { name: learn::READER.to_owned() }).await, Ok(Some(page.to)));
    // What a vendor does takes as long as it takes.
    scene.try_admit(vec![managed("licence")]).await.unwrap();
    let lease = scene.take("w").await;
    scene.clock.advance(Span::seconds(2));
    scene.drive(lease).await;
    let managed = scene.store.run(ReadEnded { after: page.to }).await.unwrap();
    assert!(managed.to > page.to && managed.ended.is_empty(), "{managed:?}");
    assert_eq!(take_in(&scene, managed).await, Ok(0), "the reader moves on all the same");
}

pub async fn h30_many_hits_are_told(scene: Scene) {
    let scene = scene.with_one_of_each().await;
    let id = scene.completed("db", json!({})).await;
    let run = scene.run_of(id).await;
    let key = Key::of(run.attempts[0].provider, run.attempts[0].cluster, "create_server", &run.spec);
    let from = scene.store.run(learn::open()).await.unwrap();
    let lesson = Lesson { samples: vec![(Span::seconds(9), End::Cut)], hit: true };
    let ended = Ended { request: id, at: scene.store.now(), key: key.clone(), lesson };
    let page = |from, count| EndedPage { from, ended: vec![ended.clone(); count], to: from + 1, at_head: true };
    take_in(&scene, page(from, 5)).await.unwrap();
    let told = || async {
        let entries = scene.store.run(EntriesOf::all(id)).await.unwrap();
        entries.into_iter().filter(|e| e.kind == EventKind::LearningOff).collect::<Vec<_>>()
    };
    assert!(told().await.is_empty());
    take_in(&scene, page(from + 1, 1)).await.unwrap();
    let told = told().await;
    let mut classes: Vec<&str> = told.iter().map(|e| e.body.detail["class"].as_str().unwrap()).collect();
    classes.sort_unstable();
    let mut expected = key.chain().map(|k| k.name());
    expected.sort_unstable();
    assert_eq!(classes, expected);
    let known = scene.store.run(AllLearned).await.unwrap();
    let off = scene.store.now().plus(Span::seconds(3600));
    assert!(known.iter().all(|(_, f)| f.off_until == Some(off) && f.samples == 0), "{known:?}");
    assert_eq!(scene.run_of(id).await.state, State::Completed);
    scene.check().await;
}

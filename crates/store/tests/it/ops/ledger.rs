//! Rows of the ledger across requests.

use provisor_core::State;
use provisor_core::run::RowState;
use provisor_store::ops::ledger::{MarkSeenClosed, OpenRows, RowsByTag};

use crate::build::World;

pub async fn rows_for_the_sweeper(world: World) {
    let acme = world.tenant("acme").await;
    let (one, two) = (world.cluster("one").await, world.cluster("two").await);
    let run = world.request(&acme, "db", State::Allocating).await;
    let (a, tag) = world.row(run.id, one.id, RowState::Created).await;
    let (closed, closed_tag) = world.row(run.id, one.id, RowState::Released).await;
    let (b, _) = world.row(run.id, one.id, RowState::Owed).await;
    let (c, _) = world.row(run.id, two.id, RowState::Intended).await;
    let open = |cluster, after, limit| world.store.run(OpenRows { cluster, after, limit });
    let ids = |rows: &[provisor_store::ops::ledger::RowSummary]| rows.iter().map(|r| r.id).collect::<Vec<_>>();
    let rows = open(one.id, None, 10).await.unwrap();
    assert_eq!(ids(&rows), [a, b]);
    assert_eq!((rows[0].state, rows[0].request_state, rows[0].open), (RowState::Created, State::Allocating, true));
    assert_eq!((rows[0].tag.as_str(), rows[0].provider_id.as_deref()), (tag.as_str(), Some("srv-1")));
    assert_eq!(ids(&open(one.id, None, 1).await.unwrap()), [a]);
    assert_eq!(ids(&open(one.id, Some(a), 1).await.unwrap()), [b]);
    assert_eq!(ids(&open(two.id, None, 10).await.unwrap()), [c]);
    let tags = vec!["pvr-testtest-unknown".to_owned(), closed_tag.as_str().to_owned(), tag.as_str().to_owned()];
    let found = world.store.run(RowsByTag { tags }).await.unwrap();
    assert_eq!(ids(&found), [closed, a]);
    assert!(!found[0].open);
    let mark = |seen: &[_], unseen: &[_]| world.store.run(MarkSeenClosed { seen: seen.to_vec(), unseen: unseen.to_vec() });
    assert_eq!(mark(&[closed, a], &[]).await, Ok(vec![(closed, 1)]), "only closed rows");
    assert_eq!(mark(&[closed], &[]).await, Ok(vec![(closed, 2)]));
    assert_eq!(mark(&[], &[closed]).await, Ok(vec![]));
    assert_eq!(mark(&[closed], &[]).await, Ok(vec![(closed, 1)]), "it counts sweeps in a row");
}

//! Reading the log.

use provisor_core::State;
use provisor_core::event::EventKind;
use provisor_store::OpError;
use provisor_store::ops::log::{EntriesOf, Entry, Feed, Head};
use provisor_store::ops::tenants::DeleteTenant;

use crate::build::World;

pub async fn events_of_one_request(world: World) {
    let acme = world.tenant("acme").await;
    let (a, b) = (world.request(&acme, "a", State::Queued).await, world.request(&acme, "b", State::Queued).await);
    let first = world.event(&a, 1, Some(1), EventKind::Started).await;
    world.event(&b, 1, Some(1), EventKind::Started).await;
    world.event(&a, 2, None, EventKind::OperationStarted).await;
    let entries = world.store.run(EntriesOf::all(a.id)).await.unwrap();
    let seen: Vec<_> = entries.iter().map(|e| (e.version, e.sequence, e.kind)).collect();
    assert_eq!(seen, [(1, Some(1), EventKind::Started), (2, None, EventKind::OperationStarted)]);
    let entry = &entries[0];
    assert_eq!((entry.id, entry.subject, entry.tenant.as_str(), entry.body.kind), (first, a.id, "acme", EventKind::Started));
    let request = entry.request.as_ref().unwrap();
    assert_eq!((request.name.as_str(), request.state, request.order_id.as_deref()), ("a", State::Queued, Some("ord-1")));
    assert_eq!(entries[1].request, None);
    let rest = world.store.run(EntriesOf { subject: a.id, after: 1 }).await.unwrap();
    assert_eq!(rest, entries[1..]);
}

/// Reads the feed to its end in small pages.
async fn read(world: &World, mut feed: Feed) -> Vec<Entry> {
    let mut all = Vec::new();
    loop {
        let page = world.store.run(feed.clone()).await.unwrap();
        assert!(page.next >= feed.after && i64::try_from(page.entries.len()).unwrap() <= feed.limit);
        assert!(page.at_head || page.next > feed.after, "it gets on");
        all.extend(page.entries);
        feed.after = page.next;
        if page.at_head {
            return all;
        }
    }
}

pub async fn the_feed_misses_nothing(world: World) {
    let page = world.store.run(Feed { limit: 10, ..Default::default() }).await.unwrap();
    assert_eq!((page.entries.len(), page.next, page.at_head), (0, 0, true));
    let acme = world.tenant("acme").await;
    let run = world.request(&acme, "a", State::Queued).await;
    let mut ids = Vec::new();
    for n in 1..=9 {
        let (sequence, kind) = if n % 3 == 0 { (Some(n / 3), EventKind::StepCompleted) } else { (None, EventKind::StepStarted) };
        ids.push(world.event(&run, n, sequence, kind).await);
    }
    let all = read(&world, Feed { limit: 2, ..Default::default() }).await;
    assert_eq!(all.iter().map(|e| e.id).collect::<Vec<_>>(), ids);
    assert!(all.windows(2).all(|w| w[0].position < w[1].position && w[0].at <= w[1].at));
    let published = read(&world, Feed { limit: 2, published_only: true, ..Default::default() }).await;
    assert_eq!(published.iter().map(|e| e.sequence).collect::<Vec<_>>(), [Some(1), Some(2), Some(3)]);
    let kinds = vec![EventKind::StepCompleted, EventKind::Completed];
    assert_eq!(read(&world, Feed { limit: 1, kinds, ..Default::default() }).await.len(), 3);
    let none = read(&world, Feed { limit: 1, kinds: vec![EventKind::Completed], ..Default::default() }).await;
    assert!(none.is_empty());
    let head = world.store.run(Head).await.unwrap();
    assert_eq!(Some(head), all.last().map(|e| e.position));
    let after = world.store.run(Feed { after: head + 5, limit: 10, ..Default::default() }).await.unwrap();
    assert_eq!((after.next, after.at_head), (head + 5, true));
}

/// Rows hold several events each; nobody who reads can tell.
pub async fn a_cursor_may_stand_anywhere_in_a_row(world: World) {
    use EventKind::{Completed, OperationDone, OperationStarted, Started, StepCompleted};
    let acme = world.tenant("acme").await;
    let (a, b) = (world.request(&acme, "a", State::Queued).await, world.request(&acme, "b", State::Queued).await);
    let first = world.events(&a, 3, Some(2), &[Started, OperationStarted, StepCompleted]).await;
    world.events(&b, 1, None, &[OperationStarted]).await;
    world.events(&a, 4, None, &[OperationDone]).await;
    world.events(&b, 6, Some(3), &[Started, OperationDone, StepCompleted, OperationStarted, Completed]).await;
    world.events(&a, 6, Some(3), &[OperationStarted, Completed]).await;
    let all = read(&world, Feed { limit: 1000, ..Default::default() }).await;
    let told: Vec<_> = all.iter().map(|e| (e.subject == a.id, e.version, e.sequence, e.kind)).collect();
    let mine = |version, sequence, kind| (true, version, sequence, kind);
    let theirs = |version, sequence, kind| (false, version, sequence, kind);
    let expected = [
        mine(1, Some(1), Started),
        mine(2, None, OperationStarted),
        mine(3, Some(2), StepCompleted),
        theirs(1, None, OperationStarted),
        mine(4, None, OperationDone),
        theirs(2, Some(1), Started),
        theirs(3, None, OperationDone),
        theirs(4, Some(2), StepCompleted),
        theirs(5, None, OperationStarted),
        theirs(6, Some(3), Completed),
        mine(5, None, OperationStarted),
        mine(6, Some(3), Completed),
    ];
    assert_eq!(told, expected);
    assert!(all.windows(2).all(|w| w[1].position == w[0].position + 1), "{all:?}");
    assert_eq!(all[0].id, first);
    assert_eq!(all.iter().map(|e| e.id).collect::<std::collections::BTreeSet<_>>().len(), all.len());
    assert!(all.iter().all(|e| e.request.is_some() == e.sequence.is_some()));
    // Whatever is asked for, from wherever: what follows of it, no more and no less.
    for (index, cursor) in std::iter::once(0).chain(all.iter().map(|e| e.position)).enumerate() {
        for limit in 1..=4 {
            for (published_only, kinds, tenant) in [
                (false, vec![], None),
                (true, vec![], None),
                (false, vec![OperationDone, Completed], None),
                (true, vec![StepCompleted], None),
                (false, vec![], Some(acme.id)),
                (false, vec![Completed], Some(acme.id)),
            ] {
                let wanted = |e: &&Entry| {
                    (kinds.is_empty() || kinds.contains(&e.kind))
                        && (e.sequence.is_some() || !(published_only || tenant.is_some()))
                };
                let expected: Vec<Entry> = all.iter().skip(index).filter(wanted).cloned().collect();
                let feed = Feed { after: cursor, limit, published_only, tenant, kinds: kinds.clone() };
                assert_eq!(read(&world, feed.clone()).await, expected, "{feed:?}");
            }
        }
    }
    let of_a: Vec<Entry> = all.iter().filter(|e| e.subject == a.id).cloned().collect();
    for after in 0..=6 {
        let rest = world.store.run(EntriesOf { subject: a.id, after }).await.unwrap();
        assert_eq!(rest, of_a[usize::try_from(after).unwrap()..]);
    }
}

pub async fn the_feed_of_a_tenant_is_its_own(world: World) {
    let (acme, other) = (world.tenant("acme").await, world.tenant("other").await);
    let mine = world.request(&acme, "a", State::RolledBack).await;
    let theirs = world.request(&other, "b", State::Queued).await;
    for n in 1..=4 {
        world.event(&mine, n, Some(n), EventKind::Started).await;
        world.event(&theirs, n, Some(n), EventKind::Started).await;
    }
    let of = |tenant| Feed { limit: 3, tenant: Some(tenant), ..Default::default() };
    assert_eq!(read(&world, of(acme.id)).await.len(), 4);
    assert!(read(&world, of(other.id)).await.iter().all(|e| e.subject == theirs.id));
    world.store.run(DeleteTenant { id: acme.id, if_match: None }).await.unwrap();
    assert_eq!(world.store.run(of(acme.id)).await, Err(OpError::NotFound("tenant")));
    let again = world.tenant("acme").await;
    assert!(read(&world, of(again.id)).await.is_empty(), "the next one of that name does not see it");
}

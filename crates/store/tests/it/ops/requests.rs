//! Requests as they are shown.

use std::collections::BTreeSet;

use provisor_core::{Kind, RequestId, Run, State};
use provisor_store::ops::requests::{GetRequest, GetRequests, ListRequests};

use crate::build::{World, run};

pub async fn one_and_several(world: World) {
    let (acme, other) = (world.tenant("acme").await, world.tenant("other").await);
    let a = world.request(&acme, "a", State::Queued).await;
    let b = world.request(&other, "b", State::Queued).await;
    let get = |id, scope| world.store.run(GetRequest { id, scope });
    let view = get(a.id, None).await.unwrap().unwrap();
    assert_eq!((&view.run, view.tenant_name.as_str(), view.version, view.events, view.published), (&a, "acme", 1, 0, 0));
    assert!(view.updated_at <= world.store.now());
    assert_eq!(get(a.id, Some(acme.id)).await.unwrap(), Some(view));
    assert_eq!(get(a.id, Some(other.id)).await.unwrap(), None);
    assert_eq!(get(world.id(), None).await.unwrap(), None);
    let several = |scope| world.store.run(GetRequests { ids: vec![b.id, world.id(), a.id], scope });
    let ids = |views: Vec<provisor_store::ops::requests::RequestView>| views.into_iter().map(|v| v.run.id).collect::<Vec<_>>();
    assert_eq!(ids(several(None).await.unwrap()), [b.id, a.id], "in the order asked");
    assert_eq!(ids(several(Some(acme.id)).await.unwrap()), [a.id]);
}

/// All pages of a list, with the size of each.
async fn pages(world: &World, mut list: ListRequests) -> (Vec<RequestId>, Vec<usize>) {
    let (mut ids, mut sizes) = (Vec::new(), Vec::new());
    loop {
        let page = world.store.run(list.clone()).await.unwrap();
        sizes.push(page.items.len());
        ids.extend(page.items.iter().map(|v| v.run.id));
        let Some(next) = page.next else { return (ids, sizes) };
        list.cursor = Some(next);
    }
}

pub async fn lists_are_paged_newest_first(world: World) {
    let acme = world.tenant("acme").await;
    assert_eq!(pages(&world, ListRequests { limit: 2, ..Default::default() }).await, (vec![], vec![0]));
    let mut newest_first = Vec::new();
    for n in 0..5 {
        newest_first.insert(0, world.request(&acme, &format!("n{n}"), State::Queued).await.id);
    }
    let (ids, sizes) = pages(&world, ListRequests { limit: 2, ..Default::default() }).await;
    assert_eq!((&ids, sizes), (&newest_first, vec![2, 2, 1]));
    let (ids, sizes) = pages(&world, ListRequests { limit: 5, ..Default::default() }).await;
    assert_eq!((&ids, sizes), (&newest_first, vec![5]), "no empty page at the end");
    // What is admitted meanwhile does not disturb the pages that follow.
    let first = world.store.run(ListRequests { limit: 2, ..Default::default() }).await.unwrap();
    world.request(&acme, "late", State::Queued).await;
    let rest = ListRequests { limit: 50, cursor: first.next, ..Default::default() };
    assert_eq!(pages(&world, rest).await.0, newest_first[2..]);
    let (ids, _) = pages(&world, ListRequests { limit: 0, ..Default::default() }).await;
    assert_eq!(ids.len(), 6, "a limit of nothing is one");
}

/// Every combination of filters against the same filters over a plain list.
pub async fn every_filter_holds(world: World) {
    let tenants = [world.tenant("acme").await, world.tenant("other").await];
    let (states, kinds) = ([State::Queued, State::RolledBack], [Kind::Vps, Kind::Managed]);
    let mut all: Vec<Run> = Vec::new();
    for n in 0..48 {
        let tenant = &tenants[n % 2];
        let mut run = run(world.id(), tenant.id, &tenant.spec.name, &format!("name{}", n / 4), states[n / 2 % 2]);
        run.spec.kind = kinds[n / 8 % 2];
        run.spec.labels = [("env".to_owned(), if n % 3 == 0 { "prod" } else { "test" }.to_owned())].into();
        // One live request of a name in a tenant (H21).
        if run.state == State::Queued
            && all.iter().any(|o| o.tenant == run.tenant && o.spec.name == run.spec.name && o.state == run.state)
        {
            continue;
        }
        world.insert(run.clone()).await;
        all.insert(0, run);
    }
    let mut statements = BTreeSet::new();
    for mask in 0..64_u32 {
        let on = |bit: u32| mask & (1 << bit) != 0;
        let list = ListRequests {
            state: on(0).then_some(states[0]),
            kind: on(1).then_some(kinds[1]),
            tenant: on(2).then_some(tenants[0].id),
            label: on(3).then(|| ("env".to_owned(), "prod".to_owned())),
            name: on(4).then(|| "name3".to_owned()),
            scope: on(5).then_some(tenants[0].id),
            cursor: None,
            limit: 3,
        };
        let expected: Vec<RequestId> = all
            .iter()
            .filter(|r| list.state.is_none_or(|s| s == r.state) && list.kind.is_none_or(|k| k == r.spec.kind))
            .filter(|r| list.tenant.is_none_or(|t| t == r.tenant) && list.scope.is_none_or(|t| t == r.tenant))
            .filter(|r| list.label.as_ref().is_none_or(|(name, value)| r.spec.labels.get(name) == Some(value)))
            .filter(|r| list.name.as_ref().is_none_or(|name| *name == r.spec.name))
            .map(|r| r.id)
            .collect();
        let (found, _) = pages(&world, list).await;
        assert_eq!(found, expected, "filters {mask:06b}");
        statements.insert(expected.len());
    }
    assert!(statements.len() > 4, "the filters differ: {statements:?}");
    let foreign = ListRequests { tenant: Some(tenants[1].id), scope: Some(tenants[0].id), limit: 9, ..Default::default() };
    assert!(pages(&world, foreign).await.0.is_empty());
}

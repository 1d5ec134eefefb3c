//! Operations of a few lines each.

use provisor_core::chance::SplitMix;
use provisor_core::event::EventKind;
use provisor_core::run::RowState;
use provisor_core::{Kind, Span, State};
use provisor_store::OpError;
use provisor_store::ops::log::{Feed, Head, epoch_of};
use provisor_store::ops::meta::{GetMeta, InstallationId, MakeMeta, PutMeta};
use provisor_store::ops::readers::{AdvanceReader, Backlog, Backlogs, OpenReader, ReaderPosition, RemoveReader, Start};
use provisor_store::ops::restored::RaiseEpoch;
use provisor_store::ops::roles::{HoldRole, LeaveRole, Under};
use provisor_store::ops::stats::Stats;
use provisor_store::ops::tokens::{CreateToken, FindToken, GetToken, ListTokens, RevokeToken};

use crate::build::World;

pub async fn meta(world: World) {
    let get = || world.store.run(GetMeta { name: "epoch".to_owned() });
    let put = |value: Option<&str>| world.store.run(PutMeta { name: "epoch".to_owned(), value: value.map(str::to_owned) });
    assert_eq!(get().await, Ok(None));
    put(Some("1")).await.unwrap();
    put(Some("2")).await.unwrap();
    assert_eq!(get().await, Ok(Some("2".to_owned())));
    let make = MakeMeta { name: "epoch".to_owned(), value: "3".to_owned() };
    assert_eq!(world.store.run(make.clone()).await, Ok("2".to_owned()));
    put(None).await.unwrap();
    assert_eq!(world.store.run(make).await, Ok("3".to_owned()));
}

pub async fn installation_id(world: World) {
    let id = world.store.run(InstallationId::new(&mut SplitMix::new(1))).await.unwrap();
    assert!(id.len() == 8 && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()), "{id}");
    assert_eq!(world.store.run(InstallationId::new(&mut SplitMix::new(2))).await.unwrap(), id);
    assert!(provisor_core::id::Tag::new(&id, world.id()).as_str().len() <= 60);
}

pub async fn readers(world: World) {
    let tenant = world.tenant("acme").await;
    let run = world.request(&tenant, "db", State::Queued).await;
    for version in 1..=3 {
        world.event(&run, version, Some(version), EventKind::Started).await;
    }
    let open = |name: &str, start| world.store.run(OpenReader { name: name.to_owned(), start });
    let head = open("late", Start::Head).await.unwrap();
    assert!(head >= 3, "H38: a new follower begins at the head: {head}");
    assert_eq!(open("insights", Start::Beginning).await, Ok(0));
    let advance = |to| world.store.run(AdvanceReader { name: "insights".to_owned(), to });
    assert_eq!(advance(2).await, Ok(2));
    assert_eq!(advance(1).await, Ok(2), "never back");
    assert_eq!(open("insights", Start::Beginning).await, Ok(2), "only a new one is set to its start");
    let behind = world.store.run(Backlogs).await.unwrap();
    let expected = Backlog { name: "insights".to_owned(), position: 2, behind: head - 2 };
    assert_eq!(behind, [expected, Backlog { name: "late".to_owned(), position: head, behind: 0 }]);
    world.store.run(RemoveReader { name: "insights".to_owned() }).await.unwrap();
    assert_eq!(world.store.run(ReaderPosition { name: "insights".to_owned() }).await, Ok(None));
    assert_eq!(advance(3).await, Err(OpError::NotFound("reader")));
}

pub async fn tokens(world: World) {
    let (acme, other) = (world.tenant("acme").await, world.tenant("other").await);
    let now = world.store.now();
    let create = |hash: &str, tenant, expires_at| CreateToken {
        id: world.id(),
        hash: hash.to_owned(),
        name: format!("token {hash}"),
        role: "member".to_owned(),
        tenant,
        expires_at,
    };
    let find = |hash: &str| world.store.run(FindToken { hash: hash.to_owned() });
    let admin = world.store.run(create("h1", None, None)).await.unwrap();
    let member = world.store.run(create("h2", Some(acme.id), Some(now.plus(Span::seconds(3600))))).await.unwrap();
    world.store.run(create("h3", Some(acme.id), Some(now))).await.unwrap();
    assert_eq!(find("h1").await, Ok(Some(admin.clone())));
    assert_eq!(find("h2").await.unwrap().unwrap().tenant_name.as_deref(), Some("acme"));
    assert_eq!(find("h3").await, Ok(None), "expired");
    assert_eq!(find("h4").await, Ok(None));
    assert_eq!(world.store.run(create("h1", None, None)).await.unwrap().id, admin.id, "the same digest is the same token");
    let list = |scope, after| world.store.run(ListTokens { after, limit: 2, scope });
    let names = |list: Vec<provisor_store::ops::tokens::TokenView>| list.into_iter().map(|t| t.name).collect::<Vec<_>>();
    assert_eq!(names(list(None, None).await.unwrap()), ["token h1", "token h2"]);
    assert_eq!(names(list(None, Some(member.id)).await.unwrap()), ["token h3"]);
    assert_eq!(names(list(Some(acme.id), None).await.unwrap()), ["token h2", "token h3"]);
    assert!(list(Some(other.id), None).await.unwrap().is_empty());
    let revoke = |scope| world.store.run(RevokeToken { id: member.id, scope });
    assert_eq!(revoke(Some(other.id)).await, Err(OpError::NotFound("token")), "another tenant's is not there");
    assert_eq!(world.store.run(GetToken { id: member.id, scope: Some(other.id) }).await, Ok(None));
    let revoked = revoke(Some(acme.id)).await.unwrap();
    assert!(revoked.revoked_at.is_some());
    assert_eq!(revoke(None).await.unwrap(), revoked, "again is the same");
    assert_eq!(find("h2").await, Ok(None));
}

pub async fn stats(world: World) {
    let empty = world.store.run(Stats).await.unwrap();
    assert_eq!((empty.queue_depth, empty.in_work, empty.leases, empty.head), (0, 0, 0, 0));
    let tenant = world.tenant("acme").await;
    let cluster = world.cluster("one").await;
    for (name, state) in [("a", State::Queued), ("b", State::Queued), ("c", State::Allocating), ("d", State::RolledBack)] {
        let run = world.request(&tenant, name, state).await;
        let row = if state == State::RolledBack { RowState::Released } else { RowState::Created };
        world.row(run.id, cluster.id, row).await;
        world.event(&run, 1, Some(1), EventKind::Started).await;
    }
    let numbers = world.store.run(Stats).await.unwrap();
    assert_eq!((numbers.queue_depth, numbers.in_work, numbers.leases), (2, 1, 0));
    assert!(numbers.head >= 4);
    let mut requests = numbers.requests.clone();
    requests.sort();
    let expected = [(State::Queued, Kind::Vps, 2), (State::Allocating, Kind::Vps, 1), (State::RolledBack, Kind::Vps, 1)];
    assert_eq!(requests, expected);
    assert_eq!(numbers.open_resources, [("created".to_owned(), 3)]);
    assert_eq!(numbers.clusters[0].limit.cpu, Some(64));
}

pub async fn roles(world: World) {
    let hold = |holder: &str, lease: Span| world.store.run(HoldRole { name: "sweeper", holder: holder.to_owned(), lease });
    let long = Span::seconds(3600);
    let first = hold("one", long).await.unwrap().expect("nobody has it");
    assert_eq!(hold("two", long).await, Ok(None));
    assert_eq!(hold("one", long).await, Ok(Some(first.clone())), "extended, it is the same lease");
    let put = |role, value: &str| {
        let op = PutMeta { name: "note".to_owned(), value: Some(value.to_owned()) };
        world.store.run(Under { role, op })
    };
    put(Some(first.clone()), "first").await.unwrap();
    world.store.run(LeaveRole(first.clone())).await.unwrap();
    assert_eq!(put(Some(first.clone()), "late").await, Err(OpError::Fenced), "given back");
    let second = hold("two", long).await.unwrap().expect("given back");
    assert!(second.generation > first.generation);
    assert_eq!(put(Some(first.clone()), "late").await, Err(OpError::Fenced), "another has it");
    world.store.run(LeaveRole(first)).await.unwrap();
    assert_eq!(hold("one", long).await, Ok(None), "a former holder cannot give it back");
    put(Some(second.clone()), "second").await.unwrap();
    // A lease that has run out is nobody's, also to its holder's own writes.
    let again = hold("two", Span(0)).await.unwrap().expect("its own");
    assert_eq!(put(Some(again), "late").await, Err(OpError::Fenced));
    assert!(hold("one", long).await.unwrap().is_some_and(|role| role.generation > second.generation));
    put(None, "asked for").await.unwrap();
    assert_eq!(world.store.run(GetMeta { name: "note".to_owned() }).await, Ok(Some("asked for".to_owned())));
}

pub async fn h41_epochs(world: World) {
    let feed = |after| world.store.run(Feed { after, limit: 100, ..Feed::default() });
    assert_eq!(world.store.run(RaiseEpoch).await, Ok(2), "also of an empty log");
    let tenant = world.tenant("acme").await;
    let run = world.request(&tenant, "db", State::Queued).await;
    world.event(&run, 1, Some(1), EventKind::Started).await;
    let before = world.store.run(Head).await.unwrap();
    assert_eq!(epoch_of(before), 2);
    // A cursor of the log that was lost: beyond the end of the restored one.
    let lost = before + 1000;
    for (epoch, version) in [(3, 2), (4, 3)] {
        assert_eq!(world.store.run(RaiseEpoch).await, Ok(epoch));
        world.event(&run, version, Some(version), EventKind::Started).await;
    }
    let all = feed(0).await.unwrap();
    let mut epochs: Vec<i64> = all.entries.iter().map(|e| epoch_of(e.position)).collect();
    let mut after = all.next;
    while !world.store.run(Head).await.is_ok_and(|head| head <= after) {
        let more = feed(after).await.unwrap();
        epochs.extend(more.entries.iter().map(|e| epoch_of(e.position)));
        assert!(more.next > after);
        after = more.next;
    }
    assert_eq!(epochs, [2, 3, 4]);
    let new = feed(lost).await.unwrap();
    assert_eq!(new.entries.first().map(|e| e.version), Some(2), "it misses nothing new");
}

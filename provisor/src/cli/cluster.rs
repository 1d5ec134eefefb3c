//! `cluster` commands and `sweep`.

use provisor_wire::Cluster;
use provisor_wire::parts::Items;
use serde_json::json;

use super::{Cluster as Command, Sweep, apply, view};
use crate::fail::Fail;
use crate::session::Session;

/// More pages than any installation has; a server that never ends its list must not hold us for ever.
const MAX_PAGES: usize = 1000;

async fn all(session: &Session) -> Result<Vec<Cluster>, Fail> {
    let (mut items, mut cursor) = (Vec::new(), None);
    for _ in 0..MAX_PAGES {
        let page = session.client.clusters(cursor.as_deref()).await?;
        items.extend(page.items);
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    Ok(items)
}

/// Runs one.
pub(crate) async fn run(session: &Session, command: &Command) -> Result<(), Fail> {
    let (client, out) = (&session.client, session.out);
    match command {
        Command::List => {
            let list = Items { items: all(session).await? };
            out.value(&list, || view::clusters(out, &list.items))
        }
        Command::Get { id } => {
            let cluster = client.cluster(id).await?;
            out.value(&cluster, || view::cluster(out, &cluster))
        }
        Command::Add { file } => apply::clusters_only(session, file).await,
        Command::Test { id } => {
            let report = client.test_cluster(id).await?;
            out.value(&report, || view::test_report(out, &report))?;
            if report.ok { Ok(()) } else { Err(Fail::Ended(format!("cluster {id} cannot be used as it is"))) }
        }
        Command::Sweep(asked) => sweep(session, asked).await,
        Command::Inventory { id } => {
            let inventory = client.inventory(id).await?;
            out.value(&inventory, || view::inventory(out, &inventory))
        }
        Command::Remove { id } => {
            client.delete_cluster(id, None).await?;
            out.remark(&format!("cluster {id} removed"));
            Ok(())
        }
        Command::Enable { id } => switch(session, id, true).await,
        Command::Disable { id } => switch(session, id, false).await,
    }
}

async fn switch(session: &Session, id: &str, enabled: bool) -> Result<(), Fail> {
    let cluster = session.client.patch_cluster(id, &json!({"provisioning_enabled": enabled}), None).await?;
    session.out.value(&cluster, || view::cluster(session.out, &cluster))
}

/// `sweep`.
pub(crate) async fn sweep(session: &Session, asked: &Sweep) -> Result<(), Fail> {
    let inventory = match &asked.release {
        Some(provider_id) => session.client.release_orphan(&asked.id, provider_id).await?,
        None => session.client.sweep(&asked.id, asked.dry_run).await?,
    };
    session.out.value(&inventory, || view::inventory(session.out, &inventory))
}

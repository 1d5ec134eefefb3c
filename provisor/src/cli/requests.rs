//! Commands that read requests and events.

use provisor_wire::client::{EventFilter, RequestFilter};
use provisor_wire::parts::{Items, Page};
use serde_json::json;

use super::{Events, List, One, Timeline, view};
use crate::fail::Fail;
use crate::output::Format;
use crate::session::Session;

/// Largest page that the server gives.
const PAGE: u32 = 500;

/// `get`.
pub(crate) async fn get(session: &Session, one: &One) -> Result<(), Fail> {
    let request = session.find(&one.id, one.tenant.as_deref()).await?;
    session.out.value(&request, || view::request(session.out, &request))
}

/// `list`: as many pages as the limit needs.
pub(crate) async fn list(session: &Session, asked: &List) -> Result<(), Fail> {
    let mut filter = RequestFilter {
        state: asked.state.clone(),
        kind: asked.kind.clone(),
        tenant: asked.tenant.clone(),
        label: asked.label.clone(),
        name: asked.name.clone(),
        cursor: asked.cursor.clone(),
        limit: None,
    };
    let limit = asked.limit as usize;
    let mut all = Page { items: Vec::new(), next_cursor: None };
    loop {
        let missing = limit.saturating_sub(all.items.len());
        filter.limit = Some(PAGE.min(u32::try_from(missing).unwrap_or(PAGE)));
        let page = session.client.requests(&filter).await?;
        let empty = page.items.is_empty();
        all.items.extend(page.items);
        all.next_cursor.clone_from(&page.next_cursor);
        filter.cursor = page.next_cursor;
        if filter.cursor.is_none() || empty || all.items.len() >= limit {
            break;
        }
    }
    session.out.value(&all, || view::requests(session.out, &all.items))?;
    if let (Format::Table, Some(cursor)) = (session.out.format, &all.next_cursor) {
        session.out.remark(&format!("There are more; go on with --cursor {cursor} or a larger --limit."));
    }
    Ok(())
}

/// `timeline`.
pub(crate) async fn timeline(session: &Session, asked: &Timeline) -> Result<(), Fail> {
    let request = session.find(&asked.one.id, asked.one.tenant.as_deref()).await?;
    let timeline = session.client.timeline(&request.id, asked.operations).await?;
    session.out.value(&timeline, || super::timeline::table(session.out, &timeline))
}

/// `attempts`.
pub(crate) async fn attempts(session: &Session, one: &One) -> Result<(), Fail> {
    let request = session.find(&one.id, one.tenant.as_deref()).await?;
    let list = Items { items: session.client.attempts(&request.id).await? };
    session.out.value(&list, || view::attempts(session.out, &list.items))
}

/// `resources`.
pub(crate) async fn resources(session: &Session, one: &One) -> Result<(), Fail> {
    let request = session.find(&one.id, one.tenant.as_deref()).await?;
    let list = Items { items: session.client.resources(&request.id).await? };
    session.out.value(&list, || view::resources(session.out, &list.items))
}

/// `check-status`.
pub(crate) async fn check_status(session: &Session, one: &One) -> Result<(), Fail> {
    let request = session.find(&one.id, one.tenant.as_deref()).await?;
    let status = session.client.check_status(&request.id).await?;
    session.out.value(&status, || view::check_status(session.out, &status))?;
    if status.ok { Ok(()) } else { Err(Fail::Ended(format!("{} does not answer as it should", request.name))) }
}

/// `metrics`.
pub(crate) async fn metrics(session: &Session, one: &One) -> Result<(), Fail> {
    let request = session.find(&one.id, one.tenant.as_deref()).await?;
    let metrics = session.client.metrics_of(&request.id).await?;
    session.out.value(&metrics, || view::metrics(&metrics))
}

/// `events`.
pub(crate) async fn events(session: &Session, asked: &Events) -> Result<(), Fail> {
    let mut filter = EventFilter {
        after: asked.after.clone(),
        kind: asked.kind.clone(),
        tenant: asked.tenant.clone(),
        limit: Some(asked.limit),
    };
    if !asked.follow {
        let page = session.client.events(&filter).await?;
        session.out.value(&page, || page.items.iter().map(|e| view::event(session.out, e) + "\n").collect())?;
        if let (Format::Table, Some(cursor)) = (session.out.format, &page.next_cursor) {
            session.out.remark(&format!("Go on with --after {cursor}, or --follow."));
        }
        return Ok(());
    }
    filter.limit = None;
    let mut stream = session.client.event_stream(&filter);
    stream.open().await?;
    loop {
        // Endless on purpose: it follows until it is interrupted.
        tokio::select! {
            biased;
            _ = tokio::signal::ctrl_c() => return Ok(()),
            next = stream.next() => {
                let next = next?;
                match session.out.format {
                    Format::Table => session.out.line(&view::received(session.out, &next))?,
                    Format::Json | Format::Yaml => session.out.line(&json!(next.event).to_string())?,
                }
            }
        }
    }
}

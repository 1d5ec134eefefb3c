//! The feed of published events, in pages and live.

use axum::Json;
use axum::extract::State as AppState;
use axum::http::HeaderMap;
use axum::response::IntoResponse;
use provisor_core::event::EventKind;
use provisor_store::ops::log::{Feed, Head};
use provisor_wire::event::CloudEvent;
use provisor_wire::parts::Page;

use super::{Answer, OfTenant};
use crate::App;
use crate::auth::Admin;
use crate::input::Params;
use crate::problem::Problem;
use crate::show;
use crate::sse::{self, Source};

/// Looks into the log for one page at most.
const LOOKS: u32 = 50;

struct Filter {
    after: Option<i64>,
    kinds: Vec<EventKind>,
    tenant: OfTenant,
}

/// Published kinds of a filter: names and families (`provisioning.*`), divided by commas.
fn kinds(params: &mut Params) -> Vec<EventKind> {
    let Some(text) = params.text("type") else { return Vec::new() };
    let mut kinds = Vec::new();
    for one in text.split(',').map(str::trim).filter(|t| !t.is_empty()) {
        let family = one.strip_suffix('*');
        let fits = |k: &&EventKind| k.is_published() && family.map_or(k.name() == one, |f| k.name().starts_with(f));
        let before = kinds.len();
        kinds.extend(EventKind::ALL.iter().filter(fits).copied());
        if kinds.len() == before {
            params.flaw("type", "enum", one, "is no type of event");
        }
    }
    kinds
}

async fn filter(app: &App, params: &mut Params) -> Result<Filter, Problem> {
    let after = params.parsed("after", "a cursor of this feed", |t| t.parse::<i64>().ok().filter(|p| *p >= 0));
    let kinds = kinds(params);
    let tenant = OfTenant::find(app, params.text("tenant")).await?;
    Ok(Filter { after, kinds, tenant })
}

/// The feed of events, oldest first. `next_cursor` is always given: ask with it again for what comes later.
#[utoipa::path(get, path = "/api/events", tag = "events",
    params(("after" = Option<String>, Query, description = "After this cursor; from the beginning where it is not given."),
        ("type" = Option<String>, Query, description = "Only these types, divided by commas; `provisioning.*` takes a family."),
        ("tenant" = Option<String>, Query, description = "Only of this tenant, by name or id."), ("limit" = Option<u32>, Query, description = "Entries of a page: 50, at most 500.")),
    responses((status = 200, body = Page<CloudEvent>)))]
pub(crate) async fn feed(_: Admin, AppState(app): AppState<App>, mut params: Params) -> Answer {
    let filter = filter(&app, &mut params).await?;
    let limit = params.limit();
    params.finish()?;
    let mut position = filter.after.unwrap_or(0);
    let mut items: Vec<CloudEvent> = Vec::new();
    if filter.tenant != OfTenant::Nobody {
        for _ in 0..LOOKS {
            let rest = limit.saturating_sub(i64::try_from(items.len()).unwrap_or(i64::MAX));
            if rest <= 0 {
                break;
            }
            let tenant = filter.tenant.id();
            let feed = Feed { after: position, kinds: filter.kinds.clone(), tenant, limit: rest, published_only: true };
            let page = app.store().run(feed).await?;
            position = page.next;
            items.extend(page.entries.iter().map(|e| show::event::event(e, app.backend.installation())));
            if page.at_head {
                break;
            }
        }
    }
    Ok(Json(Page { items, next_cursor: Some(position.to_string()) }).into_response())
}

/// The feed, live: server-sent events. Without a cursor it begins now; `after=0` begins at the first event.
#[utoipa::path(get, path = "/api/events/stream", tag = "events",
    params(("after" = Option<String>, Query, description = "After this cursor."), ("type" = Option<String>, Query, description = "Only these types, divided by commas."),
        ("tenant" = Option<String>, Query, description = "Only of this tenant, by name or id."), ("Last-Event-ID" = Option<String>, Header, description = "Go on after this cursor.")),
    responses((status = 200, content_type = "text/event-stream", body = String)))]
pub(crate) async fn stream(_: Admin, AppState(app): AppState<App>, mut params: Params, headers: HeaderMap) -> Answer {
    let filter = filter(&app, &mut params).await?;
    params.finish()?;
    if filter.tenant == OfTenant::Nobody {
        return Err(Problem::not_found("tenant"));
    }
    let position = match sse::last_event_id(&headers)?.or(filter.after) {
        Some(position) => position,
        None => app.store().run(Head).await?,
    };
    let stream = sse::open(&app, Source::Feed { kinds: filter.kinds, tenant: filter.tenant.id() }, position)?;
    Ok(stream.into_response())
}

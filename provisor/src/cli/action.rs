//! Commands on a request: cancel, suspend, reactivate, deprovision, retry, manual-input.

use provisor_wire::Request;
use provisor_wire::parts::Endpoint;
use provisor_wire::request::{ManualInput as Input, Reason, RetryOrder};

use super::watch::{Feed, Goal, Show, follow};
use super::{Act, ManualInput, One, Wait, apply, view};
use crate::fail::Fail;
use crate::session::Session;

/// What a command is called in the API, and what waiting for it means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    /// Take it back.
    Cancel,
    /// Stop it.
    Suspend,
    /// Start it again.
    Reactivate,
    /// Release it.
    Deprovision,
}

impl Verb {
    fn name(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Suspend => "suspend",
            Self::Reactivate => "reactivate",
            Self::Deprovision => "deprovision",
        }
    }

    fn goal(self) -> Goal {
        match self {
            Self::Cancel | Self::Deprovision => Goal::Gone,
            Self::Suspend => Goal::Suspended,
            Self::Reactivate => Goal::Reactivated,
        }
    }
}

/// Where events are listened to from before the command on, so that none is missed.
async fn listen(session: &Session, wait: &Wait) -> Option<Feed> {
    if wait.wait { Some(Feed::from_now(session).await) } else { None }
}

/// Waits where asked, and shows the request as it is then.
async fn finish(session: &Session, feed: Option<Feed>, request: Request, goal: Goal, wait: &Wait) -> Result<(), Fail> {
    let Some(feed) = feed else { return session.out.value(&request, || view::request(session.out, &request)) };
    let done = follow(session, feed, vec![request], goal, wait.timeout, Show::progress(session.out)).await?;
    for request in &done {
        session.out.value(request, || view::request(session.out, request))?;
    }
    Ok(())
}

async fn find(session: &Session, one: &One) -> Result<Request, Fail> {
    session.find(&one.id, one.tenant.as_deref()).await
}

/// Cancel, suspend, reactivate or deprovision.
pub(crate) async fn act(session: &Session, verb: Verb, asked: &Act) -> Result<(), Fail> {
    let request = find(session, &asked.one).await?;
    let feed = listen(session, &asked.wait).await;
    let reason = Reason { reason: asked.reason.clone(), ..Reason::default() };
    let request = session.client.command(&request.id, verb.name(), &reason).await?;
    finish(session, feed, request, verb.goal(), &asked.wait).await
}

/// Ask for it again.
pub(crate) async fn retry(session: &Session, asked: &Act) -> Result<(), Fail> {
    let request = find(session, &asked.one).await?;
    let feed = listen(session, &asked.wait).await;
    let order = RetryOrder { reason: asked.reason.clone(), ..RetryOrder::default() };
    let request = session.client.retry(&request.id, &order).await?;
    finish(session, feed, request, Goal::Completed, &asked.wait).await
}

/// Give what a managed service waits for.
pub(crate) async fn manual_input(session: &Session, asked: &ManualInput) -> Result<(), Fail> {
    let mut endpoints = Vec::new();
    for pair in &asked.endpoints {
        let Some((name, url)) = pair.split_once('=') else {
            return Err(Fail::Usage(format!("--endpoint {pair}: must be NAME=URL")));
        };
        endpoints.push(Endpoint { name: name.to_owned(), url: url.to_owned() });
    }
    let credentials = match &asked.credentials_file {
        Some(path) => Some(apply::manifest::read_file(path)?),
        None => None,
    };
    let request = find(session, &asked.one).await?;
    let feed = listen(session, &asked.wait).await;
    let request = session.client.manual_input(&request.id, &Input { endpoints, credentials }).await?;
    finish(session, feed, request, Goal::Wanted, &asked.wait).await
}

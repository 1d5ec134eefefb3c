//! Verify: one try at the probe of a port on the attempt's own floating IP.
//!
//! A port that does not answer yet is not a failure but something to wait for: a booting server refuses for a minute
//! and nothing is wrong. So only what waiting cannot mend fails here; the operation's deadline decides on the rest.
//!
//! One SSH banner is enough, since servers penalise those who ask for it again and again. A web server must answer
//! twice in a row: the first answer is often that of one which is about to be restarted by its own set-up. That it
//! has answered once is told as a fact, so that nothing has to be remembered here.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use provisor_core::workflow::Made;
use provisor_core::workflow::call::Work;
use provisor_core::{Class, Failure, Span};
use provisor_provider::{Progress, probe};

use super::running;
use crate::Openstack;
use crate::ports::Way;

/// Any answer at all counts where the request does not say which.
const ANY_STATUS: (u16, u16) = (100, 599);
/// From a first answer to the second.
const BETWEEN_ANSWERS: Span = Span::seconds(5);

/// Probes the port that `work.item` names.
pub(crate) async fn probe(cloud: &Openstack, work: &Work, way: Way) -> Result<Progress, Failure> {
    let wrong = |what: String| Failure::new(Class::Permanent, "missing_fact", format!("{}: {what}", work.operation));
    let item = work.item.as_deref().unwrap_or_default();
    let port: u16 = item.parse().map_err(|_| wrong(format!("no port in {item:?}")))?;
    let address = work.facts.get("floating_ip").ok_or_else(|| wrong("no floating IP is known".to_owned()))?;
    let ip: IpAddr = address.parse().map_err(|_| wrong(format!("{address:?} is no address")))?;
    let socket = SocketAddr::new(ip, port);
    let result = match way {
        Way::Ssh => probe::ssh(&cloud.guard, socket).await.map(drop),
        Way::Tcp => probe::tcp(&cloud.guard, socket).await,
        Way::Http | Way::Https => {
            let asked = work.spec.probes.as_ref().and_then(|p| p.http.as_ref()).filter(|p| p.port == port);
            let path = asked.map_or("/", |p| p.path.as_str());
            let good = asked.map_or(ANY_STATUS, |p| (p.expect_from, p.expect_to));
            let url = format!("{}://{socket}{path}", way.scheme());
            probe::http(&cloud.guard, &url, good).await.map(drop)
        }
    };
    let twice = matches!(way, Way::Http | Way::Https);
    let answered = format!("answered_{port}");
    let with = |word: &str| {
        let facts = if twice { [(answered.clone(), word.to_owned())].into() } else { BTreeMap::new() };
        Made { facts, ..Made::default() }
    };
    let before = work.facts.get(&answered).map(String::as_str);
    match result {
        Ok(()) if twice && !matches!(before, Some("once" | "twice")) => Ok(Progress::Running {
            made: with("once"),
            seen: format!("{socket} has answered once"),
            look_again: Some(BETWEEN_ANSWERS.min(cloud.probe_every)),
        }),
        Ok(()) => Ok(Progress::Done(with("twice"))),
        Err(failure) if failure.class == Class::Transient => Ok(running(with("no"), failure.message)),
        Err(failure) => Err(failure),
    }
}

//! The ports of a vps: how each is verified, what its endpoint is called, and where it answers on loopback.

use std::net::{Ipv4Addr, SocketAddrV4};

use provisor_core::Spec;
use provisor_core::event::Endpoint;
use serde::{Deserialize, Serialize};

/// How a port is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Way {
    /// By the banner.
    Ssh,
    /// By any answer.
    Http,
    /// By a connection: the simulated server has no certificate, and TLS would prove nothing here.
    Https,
    /// By a connection.
    Tcp,
}

/// The asked ports with their ways: SSH alone by default, and the port of the request's own HTTP probe.
pub(crate) fn asked(spec: &Spec) -> Vec<(u16, Way)> {
    let own = spec.probes.as_ref().and_then(|p| p.http.as_ref()).map(|p| p.port);
    let mut all: Vec<u16> = if spec.ports.is_empty() { vec![22] } else { spec.ports.clone() };
    all.extend(own);
    all.sort_unstable();
    all.dedup();
    all.into_iter().map(|p| (p, way(p, own))).collect()
}

fn way(port: u16, own: Option<u16>) -> Way {
    match port {
        443 => Way::Https,
        80 => Way::Http,
        _ if own == Some(port) => Way::Http,
        22 => Way::Ssh,
        _ => Way::Tcp,
    }
}

/// Where a port of a simulated server answers: privileged ones above 20,000, so that no privilege is needed.
pub(crate) fn socket(address: Ipv4Addr, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(address, if port < 1024 { 20_000 + port } else { port })
}

/// The endpoint of a port.
pub(crate) fn endpoint(address: Ipv4Addr, port: u16, way: Way) -> Endpoint {
    let socket = socket(address, port);
    let (name, scheme) = match (way, port) {
        (Way::Ssh, _) => ("ssh".to_owned(), "ssh"),
        (Way::Https, _) => ("https".to_owned(), "https"),
        (Way::Http, 80) => ("http".to_owned(), "http"),
        (Way::Http, _) => (format!("tcp-{port}"), "http"),
        (Way::Tcp, _) => (format!("tcp-{port}"), "tcp"),
    };
    Endpoint { name, url: format!("{scheme}://{socket}") }
}

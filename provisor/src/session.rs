//! A client command's connection: which server, which token.
//!
//! On the server's own machine both are found in the data folder. The administrator's token of that folder
//! is offered only to a server on this machine: `--server` with a typing error must not hand it to a stranger.

use std::path::Path;

use provisor_wire::client::RequestFilter;
use provisor_wire::{Client, ClientError, Request};

use crate::cli::Global;
use crate::config::Config;
use crate::fail::Fail;
use crate::output::Out;

/// The file of the data folder that names the address of the running server.
pub(crate) const LISTEN_FILE: &str = "listen";
/// The file of the data folder with the first administrator's token.
pub(crate) const TOKEN_FILE: &str = "admin-token";
/// Where a server is looked for when nothing says otherwise.
const DEFAULT_ADDRESS: &str = "127.0.0.1:8620";
/// Longest of these files that is read.
const MAX_BYTES: usize = 4096;

/// What a client command works with.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    /// The server.
    pub(crate) client: Client,
    /// Where to print.
    pub(crate) out: Out,
}

impl Session {
    /// Finds server and token. Configuration is read only where it is needed, so that a machine that is
    /// only a client needs none.
    pub(crate) fn open(global: &Global) -> Result<Self, Fail> {
        let out = Out::new(global.output, global.quiet);
        let needs = global.server.is_none() || global.token.is_none() || global.config.is_some();
        let data = if needs { Some(data_dir(global)?) } else { None };
        let server = match (&global.server, &data) {
            (Some(server), _) => server.clone(),
            (None, data) => address_in(data.as_deref()),
        };
        let token = match (&global.token, &data) {
            (Some(token), _) => Some(token.trim().to_owned()),
            (None, Some(data)) if is_local(&server) => read_small(&data.join(TOKEN_FILE)),
            _ => None,
        };
        let client = Client::new(&server, token.as_deref()).map_err(|e| Fail::Usage(e.to_string()))?;
        Ok(Self { client, out })
    }

    /// A request by id or by name. A name finds the live one; where there is none, the newest of its past.
    pub(crate) async fn find(&self, id: &str, tenant: Option<&str>) -> Result<Request, Fail> {
        if id.starts_with("req_") {
            return Ok(self.client.request(id).await?);
        }
        let filter = RequestFilter {
            name: Some(id.to_owned()),
            tenant: tenant.map(str::to_owned),
            limit: Some(500),
            ..RequestFilter::default()
        };
        let page = self.client.requests(&filter).await?;
        let named: Vec<Request> = page.items.into_iter().filter(|r| r.name == id).collect();
        pick(id, named)
    }
}

/// The one request that a name means.
fn pick(name: &str, named: Vec<Request>) -> Result<Request, Fail> {
    let live: Vec<Request> = named.iter().filter(|r| r.state != "rolled_back").cloned().collect();
    let candidates = if live.is_empty() { named } else { live };
    let Some(newest) = candidates.iter().max_by(|a, b| a.created_at.cmp(&b.created_at).then(a.id.cmp(&b.id))) else {
        return Err(Fail::NotFound(format!("there is no request {name:?}")));
    };
    if candidates.iter().any(|r| r.tenant != newest.tenant) {
        let lines: Vec<String> = candidates.iter().map(|r| format!("  {} of tenant {} ({})", r.id, r.tenant, r.state)).collect();
        let text = format!("{name:?} is the name of several requests; give an id, or --tenant:\n{}", lines.join("\n"));
        return Err(Fail::Ambiguous(text));
    }
    Ok(newest.clone())
}

/// The data folder that the configuration names.
fn data_dir(global: &Global) -> Result<std::path::PathBuf, Fail> {
    let asked = global.asked(None).map_err(Fail::Usage)?;
    Ok(Config::load(&asked).map_err(Fail::Config)?.data_dir())
}

/// The address of the server of a data folder.
fn address_in(data: Option<&Path>) -> String {
    let written = data.and_then(|d| read_small(&d.join(LISTEN_FILE)));
    format!("http://{}", reachable(&written.unwrap_or_else(|| DEFAULT_ADDRESS.to_owned())))
}

/// Who listens everywhere is reached on the loopback.
pub(crate) fn reachable(address: &str) -> String {
    match address.parse::<std::net::SocketAddr>() {
        Ok(a) if a.ip().is_unspecified() && a.is_ipv4() => format!("127.0.0.1:{}", a.port()),
        Ok(a) if a.ip().is_unspecified() => format!("[::1]:{}", a.port()),
        _ => address.to_owned(),
    }
}

/// Whether a server's address is on this machine.
fn is_local(server: &str) -> bool {
    let rest = server.split_once("://").map_or(server, |(_, r)| r);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, h)| h);
    let host = match host.strip_prefix('[').and_then(|h| h.split_once(']')) {
        Some((inner, _)) => inner,
        None => host.rsplit_once(':').map_or(host, |(h, _)| h),
    };
    host.eq_ignore_ascii_case("localhost") || host.parse::<std::net::IpAddr>().is_ok_and(|a| a.is_loopback())
}

fn read_small(path: &Path) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let text = text.trim();
    (!text.is_empty() && text.len() <= MAX_BYTES).then(|| text.to_owned())
}

/// Whether a call answered that there is no such thing.
pub(crate) fn is_missing(error: &ClientError) -> bool {
    matches!(error, ClientError::Problem(p) if p.status == 404)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_of_the_folder_stays_on_the_machine() {
        for server in ["http://127.0.0.1:8620", "http://localhost", "http://[::1]:1/", "http://127.0.0.2:1/x?y"] {
            assert!(is_local(server), "{server}");
        }
        for server in
            ["http://10.0.0.1:8620", "https://127.0.0.1.example.com", "http://127.0.0.1@example.com:80", "http://localhost.x:1"]
        {
            assert!(!is_local(server), "{server}");
        }
    }

    #[test]
    fn a_server_that_listens_everywhere_is_reached_on_the_loopback() {
        assert_eq!(reachable("0.0.0.0:8620"), "127.0.0.1:8620");
        assert_eq!(reachable("[::]:8620"), "[::1]:8620");
        assert_eq!(reachable("127.0.0.1:1"), "127.0.0.1:1");
    }
}

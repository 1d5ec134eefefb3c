//! The probes that all backends share: one quick try each; when to try again is the engine's affair.
//!
//! SSH: the server's banner begins with `SSH-`. HTTP and HTTPS: any answer, or a status in the asked
//! range; a certificate is not verified, because a server that just came up has made its own. Other
//! ports: a connection. Loopback, link-local and metadata addresses are refused unless allowed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use provisor_core::{Class, Failure};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use crate::Cidr;

/// Longest time of one try (PROVISOR's default; a probe operation has its own deadline besides).
pub const TRY: Duration = Duration::from_secs(5);

/// Which addresses may be probed.
#[derive(Debug, Clone, Default)]
pub struct Guard {
    /// Allowed besides public and private ranges.
    pub allow: Vec<Cidr>,
    /// Allow everything: the simulated cloud lives on loopback by design.
    pub open: bool,
}

impl Guard {
    /// Refuses an address that a probe has no business with.
    pub fn check(&self, address: IpAddr) -> Result<(), Failure> {
        if self.open || !is_blocked(address) || self.allow.iter().any(|c| c.contains(address)) {
            return Ok(());
        }
        let text = format!("probing {address} is not allowed; add its range to probes.allow_cidrs");
        Err(Failure::new(Class::Permanent, "probe_not_allowed", text))
    }
}

fn is_blocked(address: IpAddr) -> bool {
    /// Where clouds tell a server its secrets, besides the link-local ones.
    const METADATA: [IpAddr; 2] =
        [IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)), IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254))];
    let blocked = match address {
        IpAddr::V4(a) => a.is_loopback() || a.is_link_local() || a.is_unspecified() || a.is_broadcast() || a.is_multicast(),
        // What is written in the old way of embedding an IPv4 address is refused as a whole, loopback included.
        IpAddr::V6(a) => {
            a.to_ipv4().is_some() || a.is_multicast() || a.is_unicast_link_local() || behind_nat64(a).is_some_and(is_blocked)
        }
    };
    blocked || METADATA.contains(&address)
}

/// The IPv4 address that a gateway of the well-known prefix leads to (RFC 6052).
fn behind_nat64(address: Ipv6Addr) -> Option<IpAddr> {
    match address.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
            Some(IpAddr::V4(Ipv4Addr::new(a, b, c, d)))
        }
        _ => None,
    }
}

fn refused(code: &str, message: String) -> Failure {
    Failure::new(Class::Transient, code, message)
}

/// Whether a port takes connections.
pub async fn tcp(guard: &Guard, address: SocketAddr) -> Result<(), Failure> {
    connect(guard, address).await.map(|_| ())
}

async fn connect(guard: &Guard, address: SocketAddr) -> Result<TcpStream, Failure> {
    guard.check(address.ip())?;
    match tokio::time::timeout(TRY, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(e)) => Err(refused("probe_failed", format!("connecting to {address}: {e}"))),
        Err(_) => Err(refused("probe_failed", format!("connecting to {address}: no answer within {} s", TRY.as_secs()))),
    }
}

/// Whether an SSH server answers with its banner. Returns the banner.
pub async fn ssh(guard: &Guard, address: SocketAddr) -> Result<String, Failure> {
    let mut stream = connect(guard, address).await?;
    let read = async {
        let mut banner = Vec::with_capacity(256);
        let mut buffer = [0_u8; 256];
        // Why the bound: RFC 4253 allows lines before the banner; a server that talks on is none.
        while banner.len() < 4096 {
            let n = stream.read(&mut buffer).await?;
            banner.extend(buffer.iter().take(n));
            let text = String::from_utf8_lossy(&banner).into_owned();
            if let Some(line) = text.lines().find(|l| l.starts_with("SSH-")).filter(|_| text.contains('\n')) {
                return Ok(Some(line.trim_end().to_owned()));
            }
            if n == 0 {
                break;
            }
        }
        Ok::<_, std::io::Error>(None)
    };
    match tokio::time::timeout(TRY, read).await {
        Ok(Ok(Some(banner))) => Ok(banner),
        Ok(Ok(None)) => Err(refused("probe_failed", format!("{address} answers, but not with an SSH banner"))),
        Ok(Err(e)) => Err(refused("probe_failed", format!("reading the SSH banner of {address}: {e}"))),
        Err(_) => Err(refused("probe_failed", format!("{address} connects, but sends no SSH banner within {} s", TRY.as_secs()))),
    }
}

/// Whether a URL answers with a status in `good`. Returns the status.
pub async fn http(guard: &Guard, url: &str, good: (u16, u16)) -> Result<u16, Failure> {
    let wrong = |e: String| Failure::new(Class::Permanent, "probe_url", format!("{url}: {e}"));
    let parsed = reqwest::Url::parse(url).map_err(|e| wrong(e.to_string()))?;
    let host = parsed.host_str().ok_or_else(|| wrong("no host".to_owned()))?;
    let port = parsed.port_or_known_default().ok_or_else(|| wrong("no port".to_owned()))?;
    let resolved: Vec<SocketAddr> = tokio::net::lookup_host((host.trim_matches(['[', ']']), port))
        .await
        .map_err(|e| refused("probe_failed", format!("resolving {host}: {e}")))?
        .collect();
    for address in &resolved {
        guard.check(address.ip())?;
    }
    // Why `resolve_to_addrs`: the address that was checked is the one that is called.
    let client = if host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
        by_address().map_err(&wrong)?
    } else {
        client(|builder| builder.resolve_to_addrs(host, &resolved)).map_err(&wrong)?
    };
    let answer = client.get(parsed).send().await.map_err(|e| refused("probe_failed", format!("{url}: {}", cause(&e))))?;
    let status = answer.status().as_u16();
    if (good.0..=good.1).contains(&status) {
        return Ok(status);
    }
    Err(refused("probe_failed", format!("{url} answers {status}, expected {}-{}", good.0, good.1)))
}

/// The client for URLs with an address: nothing is resolved, so one serves all. Making one costs
/// milliseconds, and a probe is made often.
fn by_address() -> Result<reqwest::Client, String> {
    static SHARED: std::sync::OnceLock<Result<reqwest::Client, String>> = std::sync::OnceLock::new();
    // No connection is kept: each probe must find the port open now.
    SHARED.get_or_init(|| client(|builder| builder.pool_max_idle_per_host(0))).clone()
}

fn client(more: impl FnOnce(reqwest::ClientBuilder) -> reqwest::ClientBuilder) -> Result<reqwest::Client, String> {
    // reqwest is built without a TLS implementation and panics when none is installed; a second installation changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = reqwest::Client::builder()
        .tls_danger_accept_invalid_certs(true)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .timeout(TRY);
    more(builder).build().map_err(|e| e.to_string())
}

/// The innermost cause, which is what people can act on.
fn cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("no answer within {} s", TRY.as_secs());
    }
    let mut last: &dyn std::error::Error = error;
    while let Some(next) = last.source() {
        last = next;
    }
    last.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_a_probe_has_no_business_with() {
        let allowed = |a: &str| Guard::default().check(a.parse().expect("address")).is_ok();
        for good in ["10.0.0.1", "192.0.2.1", "fd12::1", "2001:db8::1", "64:ff9b::c000:201"] {
            assert!(allowed(good), "{good}");
        }
        let bad = "127.0.0.1 169.254.169.254 0.0.0.0 224.0.0.1 100.100.100.200 ::1 :: fe80::1 ff02::1 ::ffff:127.0.0.1 \
                   ::127.0.0.1 fd00:ec2::254 64:ff9b::a9fe:a9fe 64:ff9b::7f00:1";
        for bad in bad.split_whitespace() {
            assert!(!allowed(bad), "{bad}");
        }
        let guard = Guard { allow: Cidr::parse("127.0.0.0/8").into_iter().collect(), open: false };
        assert!(guard.check("127.1.2.3".parse().expect("address")).is_ok());
    }
}

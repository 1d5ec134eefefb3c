//! What each asked port is for: how it is verified and what its address is called.

use provisor_core::Spec;

/// How a port is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Ssh,
    Http,
    Https,
    Tcp,
}

/// The way of a port by its number.
pub(crate) fn way(port: u16) -> Way {
    match port {
        22 => Way::Ssh,
        80 => Way::Http,
        443 => Way::Https,
        _ => Way::Tcp,
    }
}

/// The asked ports; SSH alone by default.
pub(crate) fn asked(spec: &Spec) -> Vec<u16> {
    if spec.ports.is_empty() { vec![22] } else { spec.ports.clone() }
}

impl Way {
    /// The operation that verifies it.
    pub(crate) fn operation(self) -> &'static str {
        match self {
            Self::Ssh => "probe_ssh",
            Self::Http => "probe_http",
            Self::Https => "probe_https",
            Self::Tcp => "probe_tcp",
        }
    }

    /// The scheme of its URL.
    pub(crate) fn scheme(self) -> &'static str {
        match self {
            Self::Ssh => "ssh",
            Self::Http => "http",
            Self::Https => "https",
            Self::Tcp => "tcp",
        }
    }

    /// What the endpoint is called: the scheme, and for other ports their number too, as there may be several.
    pub(crate) fn endpoint_name(self, port: u16) -> String {
        if self == Self::Tcp { format!("tcp-{port}") } else { self.scheme().to_owned() }
    }

    /// The URL of a port at an address; the usual port of a scheme is left out.
    pub(crate) fn url(self, address: &str, port: u16) -> String {
        let scheme = self.scheme();
        if self == way(port) && self != Self::Tcp {
            format!("{scheme}://{address}")
        } else {
            format!("{scheme}://{address}:{port}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_leave_out_what_goes_without_saying() {
        assert_eq!(way(22).url("192.0.2.1", 22), "ssh://192.0.2.1");
        assert_eq!(way(443).url("192.0.2.1", 443), "https://192.0.2.1");
        assert_eq!(way(5432).url("192.0.2.1", 5432), "tcp://192.0.2.1:5432");
        assert_eq!(Way::Http.url("192.0.2.1", 8080), "http://192.0.2.1:8080");
        assert_eq!(way(5432).endpoint_name(5432), "tcp-5432");
    }
}

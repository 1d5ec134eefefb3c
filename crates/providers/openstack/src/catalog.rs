//! The Keystone catalog: which service answers where.
//!
//! An entry is chosen by service type (with its older aliases), interface and region. The cluster's `overrides`
//! win over the catalog, so that a cloud behind a gateway, or one service of it behind a proxy, can be used
//! without touching Keystone. Clouds differ in whether a catalog URL ends with the API version, so the version is
//! added where it is missing instead of trusting either habit.

use std::collections::BTreeMap;

use serde::Deserialize;

/// A service of the cloud that this adapter talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Service {
    /// Keystone.
    Identity,
    /// Nova.
    Compute,
    /// Neutron.
    Network,
    /// Cinder.
    Volume,
    /// Glance.
    Image,
    /// Placement; only administrators may use it.
    Placement,
}

impl Service {
    /// The name used in errors, checks and `overrides`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Compute => "compute",
            Self::Network => "network",
            Self::Volume => "volume",
            Self::Image => "image",
            Self::Placement => "placement",
        }
    }

    /// Catalog types, the current one first.
    fn types(self) -> &'static [&'static str] {
        match self {
            Self::Identity => &["identity"],
            Self::Compute => &["compute"],
            Self::Network => &["network"],
            Self::Volume => &["block-storage", "volumev3", "block-store", "volume"],
            Self::Image => &["image"],
            Self::Placement => &["placement"],
        }
    }

    /// The base URL with its version path.
    fn versioned(self, url: &str, project_id: &str) -> String {
        let url = url.trim_end_matches('/');
        match self {
            Self::Compute if !url.contains("/v2") => format!("{url}/v2.1"),
            Self::Network if !url.contains("/v2") => format!("{url}/v2.0"),
            Self::Image if !url.contains("/v2") => format!("{url}/v2"),
            Self::Volume if !url.contains("/v3") => format!("{url}/v3/{project_id}"),
            _ => url.to_owned(),
        }
    }
}

/// One service of the catalog, as Keystone sends it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Entry {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    endpoints: Vec<Address>,
}

/// One endpoint of a service.
#[derive(Debug, Clone, Deserialize)]
struct Address {
    interface: String,
    #[serde(default)]
    region_id: Option<String>,
    #[serde(default)]
    region: Option<String>,
    url: String,
}

/// How an entry is chosen.
#[derive(Debug, Clone, Default)]
pub(crate) struct Choice {
    /// `public`, `internal` or `admin`.
    pub(crate) interface: String,
    /// The region, where the catalog holds several.
    pub(crate) region: Option<String>,
    /// URLs that win over the catalog, by service name.
    pub(crate) overrides: BTreeMap<String, String>,
}

/// The base URL of `service`, or what was looked for in vain.
pub(crate) fn base_url(entries: &[Entry], choice: &Choice, service: Service, project_id: &str) -> Result<String, String> {
    if let Some(url) = choice.overrides.get(service.name()) {
        return Ok(service.versioned(url, project_id));
    }
    let in_region = |address: &&Address| {
        choice
            .region
            .as_ref()
            .is_none_or(|wanted| address.region_id.as_ref() == Some(wanted) || address.region.as_ref() == Some(wanted))
    };
    for kind in service.types() {
        let found = entries
            .iter()
            .filter(|entry| entry.kind == *kind)
            .flat_map(|entry| entry.endpoints.iter())
            .filter(|address| address.interface.trim_end_matches("URL") == choice.interface)
            .find(in_region);
        if let Some(address) = found {
            return Ok(service.versioned(&address.url, project_id));
        }
    }
    let region = choice.region.as_deref().map_or_else(String::new, |r| format!(" in region {r}"));
    Err(format!("the catalog has no {} endpoint of interface {}{region}", service.name(), choice.interface))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries() -> Vec<Entry> {
        serde_json::from_value(serde_json::json!([
            {"type": "compute", "endpoints": [
                {"interface": "public", "region_id": "one", "url": "http://one/v2.1"},
                {"interface": "internal", "region_id": "two", "url": "http://two-internal/"},
                {"interface": "public", "region_id": "two", "url": "http://two/"}]},
            {"type": "volumev3", "endpoints": [
                {"interface": "public", "region_id": "two", "url": "http://vol/v3/p1"}]},
            {"type": "network", "endpoints": [
                {"interface": "public", "region_id": "two", "url": "http://net"}]}
        ]))
        .unwrap()
    }

    fn choice(interface: &str, region: Option<&str>) -> Choice {
        Choice { interface: interface.into(), region: region.map(Into::into), overrides: BTreeMap::new() }
    }

    #[test]
    fn interface_region_and_version_decide() {
        let url = |i, r, s| base_url(&entries(), &choice(i, r), s, "p1");
        assert_eq!(url("public", Some("one"), Service::Compute).unwrap(), "http://one/v2.1");
        assert_eq!(url("public", Some("two"), Service::Compute).unwrap(), "http://two/v2.1");
        assert_eq!(url("internal", None, Service::Compute).unwrap(), "http://two-internal/v2.1");
        assert_eq!(url("public", None, Service::Volume).unwrap(), "http://vol/v3/p1");
        assert_eq!(url("public", None, Service::Network).unwrap(), "http://net/v2.0");
        let missing = url("public", Some("three"), Service::Network).unwrap_err();
        assert!(missing.contains("network") && missing.contains("three"), "{missing}");
    }

    #[test]
    fn an_override_wins() {
        let mut choice = choice("public", Some("nowhere"));
        choice.overrides.insert("volume".into(), "http://proxy:1".into());
        assert_eq!(base_url(&entries(), &choice, Service::Volume, "p9").unwrap(), "http://proxy:1/v3/p9");
    }
}

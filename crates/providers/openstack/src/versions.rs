//! Microversions: the newest that both sides know, agreed once for each service.
//!
//! Nova, Cinder and Placement speak their oldest dialect to whoever names none, so each call names one. Between a
//! floor, below which what this adapter needs is missing (tags at creation, locked reasons), and a ceiling, up to
//! which it has been tried, the newest is taken: a newer Nova tells more of why a server failed. What stands above
//! the ceiling is not used, because microversions may take things away (from 2.102 on unknown parameters are
//! refused). A service that hides its version document behind a gateway is spoken to at the floor.

use serde_json::Value;

use crate::catalog::Service;

type Version = (u32, u32);

/// What this adapter can speak with a service.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spoken {
    /// The word before the version in the header.
    word: &'static str,
    floor: Version,
    ceiling: Version,
}

/// What is spoken with a service; `None` where it has no microversions.
pub(crate) fn spoken(service: Service) -> Option<Spoken> {
    match service {
        // Train to 2024.
        Service::Compute => Some(Spoken { word: "compute", floor: (2, 79), ceiling: (2, 96) }),
        Service::Volume => Some(Spoken { word: "volume", floor: (3, 50), ceiling: (3, 71) }),
        Service::Placement => Some(Spoken { word: "placement", floor: (1, 10), ceiling: (1, 39) }),
        Service::Identity | Service::Network | Service::Image => None,
    }
}

impl Spoken {
    /// The header's value by the service's version document; the error says what is too old.
    pub(crate) fn agree(self, document: Option<&Value>) -> Result<String, String> {
        let offered = document.and_then(offered);
        let version = match offered {
            None => self.floor,
            Some((lowest, highest)) if highest < self.floor || lowest > self.ceiling => {
                return Err(format!(
                    "{} speaks microversions {} to {}, and {} to {} are needed",
                    self.word,
                    show(lowest),
                    show(highest),
                    show(self.floor),
                    show(self.ceiling)
                ));
            }
            Some((_, highest)) => highest.min(self.ceiling),
        };
        Ok(format!("{} {}", self.word, show(version)))
    }
}

fn show((major, minor): Version) -> String {
    format!("{major}.{minor}")
}

/// The lowest and highest version of a document: one `version`, or the last of `versions` that has any.
fn offered(document: &Value) -> Option<(Version, Version)> {
    let one = document.get("version").into_iter();
    let several = document.get("versions").and_then(Value::as_array).into_iter().flatten();
    one.chain(several).filter_map(range).max_by_key(|(_, highest)| *highest)
}

fn range(entry: &Value) -> Option<(Version, Version)> {
    let read = |key: &str| {
        let (major, minor) = entry.get(key)?.as_str()?.split_once('.')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    };
    Some((read("min_version")?, read("version").or_else(|| read("max_version"))?))
}

/// Where a service shows its versions, below or above its base URL.
pub(crate) fn document_url(service: Service, base: &str) -> String {
    match service {
        // The project that ends the address is no part of it.
        Service::Volume => base.find("/v3").map_or_else(|| format!("{base}/"), |at| format!("{}/v3/", base.split_at(at).0)),
        _ => format!("{base}/"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn nova(highest: &str) -> Value {
        json!({"version": {"id": "v2.1", "status": "CURRENT", "version": highest, "min_version": "2.1"}})
    }

    #[test]
    fn the_newest_that_both_know_is_spoken() {
        let spoken = spoken(Service::Compute).unwrap();
        assert_eq!(spoken.agree(Some(&nova("2.93"))).unwrap(), "compute 2.93");
        assert_eq!(spoken.agree(Some(&nova("2.103"))).unwrap(), "compute 2.96");
        assert_eq!(spoken.agree(None).unwrap(), "compute 2.79");
        let old = spoken.agree(Some(&nova("2.65"))).unwrap_err();
        assert!(old.contains("2.65") && old.contains("2.79"), "{old}");
    }

    #[test]
    fn documents_of_all_services_are_read() {
        let cinder = json!({"versions": [{"id": "v3.0", "version": "3.70", "min_version": "3.0"}]});
        assert_eq!(spoken(Service::Volume).unwrap().agree(Some(&cinder)).unwrap(), "volume 3.70");
        let placement = json!({"versions": [{"id": "v1.0", "max_version": "1.39", "min_version": "1.0"}]});
        assert_eq!(spoken(Service::Placement).unwrap().agree(Some(&placement)).unwrap(), "placement 1.39");
        assert_eq!(document_url(Service::Volume, "http://c/v3/p1"), "http://c/v3/");
        assert_eq!(document_url(Service::Compute, "http://n/v2.1"), "http://n/v2.1/");
    }
}

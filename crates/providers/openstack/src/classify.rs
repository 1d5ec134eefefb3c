//! Which class an error of OpenStack has, as tables.
//!
//! The services disagree: a quota is 403 at Nova, 409 at Neutron and 413 at Cinder (with `Retry-After: 0`, which
//! would make a hot loop), an exhausted external network is 400. So rules look at service, status and text, and the
//! first that fits decides. What the tables do not know falls back on what is known about the call itself: a create
//! without a definite answer is ambiguous, everything else without one may simply be tried again.

use provisor_core::{Class, Failure, Span};
use reqwest::Method;

use crate::catalog::Service;
use crate::client::{CallError, Outcome};

/// One line of the table of answers.
struct Answer {
    service: Option<Service>,
    status: u16,
    /// Part of the fault's name or words; empty fits all.
    text: &'static str,
    /// `None`: as after a lost answer. What stands in the way of a create may be our own earlier one.
    class: Option<Class>,
    code: &'static str,
}

const fn answer(service: Option<Service>, status: u16, text: &'static str, class: Class, code: &'static str) -> Answer {
    Answer { service, status, text, class: Some(class), code }
}

const fn unsure(service: Option<Service>, status: u16, text: &'static str, code: &'static str) -> Answer {
    Answer { service, status, text, class: None, code }
}

const NOVA: Option<Service> = Some(Service::Compute);
const NEUTRON: Option<Service> = Some(Service::Network);
const CINDER: Option<Service> = Some(Service::Volume);
const KEYSTONE: Option<Service> = Some(Service::Identity);

/// Errors answered at once; the first fitting line decides.
const ANSWERS: &[Answer] = &[
    answer(None, 401, "", Class::Auth, "credentials_refused"),
    answer(KEYSTONE, 400, "", Class::Auth, "credentials_refused"),
    answer(KEYSTONE, 403, "", Class::Auth, "credentials_refused"),
    answer(KEYSTONE, 404, "", Class::Auth, "credentials_refused"),
    answer(None, 403, "uota exceeded", Class::Capacity, "quota_exceeded"),
    answer(None, 403, "olicy", Class::Auth, "not_allowed"),
    answer(CINDER, 413, "xceed", Class::Capacity, "quota_exceeded"),
    answer(None, 413, "", Class::Throttled, "throttled"),
    answer(None, 429, "", Class::Throttled, "throttled"),
    answer(None, 409, "OverQuota", Class::Capacity, "quota_exceeded"),
    answer(None, 409, "uota exceeded", Class::Capacity, "quota_exceeded"),
    answer(NEUTRON, 409, "IpAddressGenerationFailure", Class::Capacity, "no_addresses"),
    answer(NEUTRON, 400, "ExternalIpAddressExhausted", Class::Capacity, "no_addresses"),
    answer(NEUTRON, 404, "ExternalGatewayForFloatingIPNotFound", Class::Permanent, "network_not_reachable"),
    answer(NOVA, 409, "is locked", Class::Transient, "server_locked"),
    answer(NOVA, 409, "ore than one possible network", Class::Permanent, "network_ambiguous"),
    answer(NOVA, 409, "nique match", Class::Permanent, "bad_request"),
    unsure(None, 409, "nUse", "in_use"),
    unsure(None, 409, "in use", "in_use"),
    unsure(NEUTRON, 409, "FloatingIPPortAlreadyAssociated", "in_use"),
    answer(None, 409, "", Class::Transient, "conflict"),
    answer(None, 412, "", Class::Transient, "conflict"),
    answer(CINDER, 400, "tatus must be", Class::Transient, "conflict"),
    unsure(NOVA, 400, "tatus must be", "in_use"),
    answer(NOVA, 400, "mage", Class::Permanent, "image_not_usable"),
    answer(CINDER, 400, "mage", Class::Permanent, "image_not_usable"),
    answer(NOVA, 400, "lavor", Class::Permanent, "flavor_not_usable"),
    answer(None, 501, "", Class::Permanent, "not_supported"),
];

/// One line of a table of reasons found later on the object itself.
struct Reason {
    text: &'static str,
    class: Class,
    /// The class from the second time on.
    again: Class,
    code: &'static str,
}

const fn reason(text: &'static str, class: Class, code: &'static str) -> Reason {
    Reason { text, class, again: class, code }
}

/// What may pass once, and at the second time is a cloud that cannot do it now: another one can.
const fn once(text: &'static str, code: &'static str) -> Reason {
    Reason { text, class: Class::Transient, again: Class::Capacity, code }
}

/// Why a server went to ERROR, by `fault.message`. Such a server is never adopted.
const SERVER_FAULTS: &[Reason] = &[
    reason("No valid host was found", Class::Capacity, "no_valid_host"),
    reason("No fixed IP addresses available", Class::Capacity, "no_addresses"),
    reason("LimitExceeded", Class::Capacity, "quota_exceeded"),
    reason("uota exceeded", Class::Capacity, "quota_exceeded"),
    reason("is unacceptable", Class::Permanent, "image_not_usable"),
    reason("disk is too small", Class::Permanent, "flavor_not_usable"),
    reason("ertificate", Class::Permanent, "image_not_usable"),
    reason("ignature", Class::Permanent, "image_not_usable"),
    once("Exceeded maximum number of retries", "build_failed"),
    reason("did not finish being created", Class::Transient, "storage_slow"),
    once("Failed to allocate the network", "network_setup_failed"),
    once("Binding failed for port", "network_setup_failed"),
    once("Failure prepping block device", "volume_attach_failed"),
    once("sets discard", "volume_attach_failed"),
    reason("", Class::Transient, "build_failed"),
];

/// Why a volume went to error, by the id that ends Cinder's user message.
const VOLUME_FAULTS: &[Reason] = &[
    reason("_006", Class::Capacity, "quota_exceeded"),
    reason("_007", Class::Permanent, "image_not_usable"),
    reason("_029", Class::Permanent, "image_not_usable"),
    once("_003", "no_storage_backend"),
    once("_012", "volume_failed"),
    reason("", Class::Transient, "volume_failed"),
];

/// What follows from a call that did not succeed.
pub(crate) fn failure(error: &CallError) -> Failure {
    let unsure = if creates(error) { Class::Ambiguous } else { Class::Transient };
    let made = |class, code: &str| Failure::new(class, code, error.to_string());
    match &error.outcome {
        Outcome::NotSent(_) => made(Class::Transient, "unreachable"),
        Outcome::Lost(_) => made(unsure, "answer_lost"),
        Outcome::Unreadable(_) => made(unsure, "unexpected_answer"),
        Outcome::NoEndpoint(_) => made(Class::Permanent, "no_endpoint"),
        Outcome::Incompatible(_) => made(Class::Permanent, "not_supported"),
        Outcome::Answered { status, fault, message, retry_after } => {
            let text = format!("{} {message}", fault.as_deref().unwrap_or_default());
            let (class, code) = ANSWERS
                .iter()
                .find(|line| {
                    line.status == *status
                        && line.service.is_none_or(|service| service == error.service)
                        && text.contains(line.text)
                })
                .map_or_else(|| by_status(*status, unsure), |line| (line.class.unwrap_or(unsure), line.code));
            let failure = made(class, code);
            match retry_after {
                // A class of its own decides when a full quota is asked again, not the header beside it.
                Some(wait) if matches!(class, Class::Throttled | Class::Transient) => {
                    failure.after(Span::seconds(i64::try_from(wait.as_secs()).unwrap_or(i64::MAX)))
                }
                _ => failure,
            }
        }
    }
}

fn by_status(status: u16, unsure: Class) -> (Class, &'static str) {
    match status {
        408 | 500.. => (unsure, "service_failed"),
        404 => (Class::Permanent, "not_found"),
        403 => (Class::Permanent, "refused"),
        _ => (Class::Permanent, "bad_request"),
    }
}

/// Whether the call makes an object that its answer alone tells of. Logging in and actions do not.
fn creates(error: &CallError) -> bool {
    error.method == Method::POST && error.service != Service::Identity && !error.path.ends_with("/action")
}

/// A server found in ERROR: to be released and made anew.
pub(crate) fn server_fault(id: &str, message: &str, try_number: u32) -> Failure {
    spoiled(SERVER_FAULTS, message, &format!("server {id} is in ERROR: {message}"), try_number)
}

/// A volume found in error: to be released and made anew.
pub(crate) fn volume_fault(id: &str, event: &str, message: &str, try_number: u32) -> Failure {
    spoiled(VOLUME_FAULTS, event, &format!("volume {id} is in error: {message}"), try_number)
}

fn spoiled(table: &[Reason], key: &str, message: &str, try_number: u32) -> Failure {
    let (class, code) = table
        .iter()
        .find(|line| key.contains(line.text))
        .map_or((Class::Transient, "failed"), |line| (if try_number > 1 { line.again } else { line.class }, line.code));
    let message: String = message.chars().take(500).collect();
    Failure::new(class, code, message).spoiled()
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;
    use std::time::Duration;

    use super::*;

    fn error(method: Method, service: Service, path: &str, outcome: Outcome) -> CallError {
        CallError { method, service, path: path.into(), outcome, request_id: Some("req-1".into()) }
    }

    fn answered(status: u16, text: &str) -> Outcome {
        Outcome::Answered { status, fault: None, message: text.into(), retry_after: Some(Duration::ZERO) }
    }

    /// The list that a reader compares with the services' documentation.
    #[test]
    fn the_table_reads_as_agreed() {
        use Service::{Compute, Identity, Image, Network, Volume};
        let lost = || Outcome::Lost("cut".into());
        let cases = [
            (Method::POST, Compute, "/servers", lost()),
            (Method::POST, Compute, "/servers", Outcome::Unreadable("no JSON".into())),
            (Method::POST, Compute, "/servers", Outcome::NotSent("refused".into())),
            (Method::POST, Compute, "/servers", answered(503, "")),
            (Method::POST, Compute, "/servers", Outcome::Incompatible("too old".into())),
            (Method::POST, Compute, "/servers/1/action", lost()),
            (Method::POST, Compute, "/servers/1/action", answered(409, "while it is in vm_state active")),
            (Method::GET, Compute, "/servers/1", answered(502, "")),
            (Method::DELETE, Compute, "/servers/1", lost()),
            (Method::POST, Identity, "/auth/tokens", lost()),
            (Method::POST, Identity, "/auth/tokens", answered(401, "")),
            (Method::POST, Compute, "/servers", answered(403, "Quota exceeded for cores")),
            (Method::POST, Compute, "/servers", answered(403, "Policy doesn't allow os_compute_api to be performed.")),
            (Method::POST, Compute, "/servers", answered(403, "Only volume-backed servers are allowed")),
            (Method::POST, Compute, "/servers", answered(413, "This request was rate-limited.")),
            (Method::POST, Compute, "/servers", answered(400, "Flavor's memory is too small for requested image")),
            (
                Method::POST,
                Volume,
                "/volumes",
                answered(413, "VolumeLimitExceeded: Maximum number of volumes allowed (10) exceeded"),
            ),
            (Method::POST, Volume, "/volumes", answered(400, "Unable to find image")),
            (Method::POST, Network, "/floatingips", answered(409, "OverQuota Quota exceeded")),
            (Method::POST, Network, "/floatingips", answered(400, "ExternalIpAddressExhausted Unable to find")),
            (Method::POST, Network, "/floatingips", answered(404, "ExternalGatewayForFloatingIPNotFound")),
            (Method::POST, Network, "/ports", answered(409, "IpAddressGenerationFailure No more")),
            (Method::POST, Compute, "/servers", answered(409, "Port 1 is still in use.")),
            (Method::POST, Compute, "/servers", answered(409, "More than one possible network found.")),
            (Method::POST, Network, "/floatingips", answered(409, "FloatingIPPortAlreadyAssociated")),
            (Method::DELETE, Network, "/security-groups/1", answered(409, "SecurityGroupInUse")),
            (Method::DELETE, Volume, "/volumes/1", answered(400, "Volume status must be available or error")),
            (Method::GET, Image, "/images/1", answered(404, "")),
            (Method::GET, Image, "/images", answered(429, "")),
        ];
        let mut list = String::new();
        for (method, service, path, outcome) in cases {
            let failure = failure(&error(method.clone(), service, path, outcome.clone()));
            let seen = match &outcome {
                Outcome::Answered { status, .. } => status.to_string(),
                Outcome::NotSent(_) => "not sent".into(),
                Outcome::Lost(_) => "lost".into(),
                Outcome::Unreadable(_) => "unreadable".into(),
                Outcome::NoEndpoint(_) => "no endpoint".into(),
                Outcome::Incompatible(_) => "incompatible".into(),
            };
            let line = format!("{} {method} {path} {seen}: {:?} {}", service.name(), failure.class, failure.code);
            writeln!(list, "{line}").unwrap();
        }
        assert_eq!(list, include_str!("classify.txt"));
    }

    #[test]
    fn a_full_quota_ignores_the_header_that_says_at_once() {
        let full = failure(&error(Method::POST, Service::Volume, "/volumes", answered(413, "exceeded")));
        assert_eq!((full.class, full.retry_after), (Class::Capacity, None));
        let slow = failure(&error(Method::GET, Service::Compute, "/servers", answered(429, "")));
        assert_eq!((slow.class, slow.retry_after), (Class::Throttled, Some(Span::ZERO)));
    }

    #[test]
    fn objects_in_error_are_spoiled_and_classed_by_their_words() {
        let class = |text| server_fault("s", text, 1).class;
        assert_eq!(class("No valid host was found. There are not enough hosts available."), Class::Capacity);
        assert_eq!(class("Build of instance x aborted: VolumeLimitExceeded: …"), Class::Capacity);
        assert_eq!(class("Exceeded maximum number of retries. Exhausted all hosts"), Class::Transient);
        assert_eq!(class("Image x is unacceptable: Converted to raw"), Class::Permanent);
        assert_eq!(class("something new"), Class::Transient);
        assert!(server_fault("s", "x", 1).spoiled && volume_fault("v", "VOLUME_VOLUME_007", "m", 1).spoiled);
        assert_eq!(volume_fault("v", "VOLUME_VOLUME_007", "m", 1).class, Class::Permanent);
        // What may pass once is tried once more here, and then elsewhere.
        assert_eq!(server_fault("s", "Exceeded maximum number of retries.", 2).class, Class::Capacity);
        assert_eq!(volume_fault("v", "VOLUME_VOLUME_003", "m", 1).class, Class::Transient);
        assert_eq!(volume_fault("v", "VOLUME_VOLUME_003", "m", 2).class, Class::Capacity);
    }
}

//! Every error code that users meet, as data: problem documents, the pages `/errors/CODE` and the docs are
//! made from this table. A code that is not here is a fault of ours and a test says so.
//!
//! Two families: what the API refuses a call with (`status` is given), and why a request or one of its
//! operations failed (`status` is `None`; such codes stand in `error.code`). Some words mean both.

/// One code and all that is said about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorCode {
    /// Stable; never used again for something else.
    pub code: &'static str,
    /// A short title.
    pub title: &'static str,
    /// The HTTP status where the API answers with it.
    pub status: Option<u16>,
    /// Whether the same call, or the same request, may succeed later without a change.
    pub retriable: bool,
    /// What happened.
    pub happened: &'static str,
    /// What to do about it.
    pub remedy: &'static str,
}

const fn answer(
    status: u16,
    code: &'static str,
    title: &'static str,
    retriable: bool,
    happened: &'static str,
    remedy: &'static str,
) -> ErrorCode {
    ErrorCode { code, title, status: Some(status), retriable, happened, remedy }
}

const fn failure(
    code: &'static str,
    title: &'static str,
    retriable: bool,
    happened: &'static str,
    remedy: &'static str,
) -> ErrorCode {
    ErrorCode { code, title, status: None, retriable, happened, remedy }
}

/// The code of a name.
pub fn find(code: &str) -> Option<&'static ErrorCode> {
    ANSWERS.iter().chain(FAILURES).find(|c| c.code == code)
}

/// All codes, those of the API first.
pub fn all() -> impl Iterator<Item = &'static ErrorCode> {
    ANSWERS.iter().chain(FAILURES)
}

/// The code that stands in for one that is not in the table.
pub const INTERNAL: ErrorCode = answer(
    500,
    "internal",
    "Internal error",
    true,
    "Something went wrong inside Provisor. The details are in its log under the request id of the answer.",
    "Try again later. If it stays, give the request id (header X-Request-Id) to whoever runs this Provisor.",
);

/// What the API refuses a call with.
const ANSWERS: &[ErrorCode] = &[
    INTERNAL,
    answer(
        400,
        "malformed_body",
        "The body is not JSON",
        false,
        "The body could not be read as one JSON document. The detail says where it breaks.",
        "Send one JSON document in UTF-8. Manifests in YAML are read by the command line, not by the API.",
    ),
    answer(
        401,
        "unauthenticated",
        "Not signed in",
        false,
        "The call had no token, or one that is unknown, expired or revoked.",
        "Send `Authorization: Bearer pvr_…`. On the server's own machine the first administrator's token is in the file admin-token of its data folder.",
    ),
    answer(403, "forbidden", "Not allowed", false, "The token is good, but its role may not do this.", "Use a token with the needed role, or ask an administrator."),
    answer(
        404,
        "not_found",
        "Not found",
        false,
        "There is no such thing, or it is not visible to this token; or this version has no such path.",
        "Check the id or name, and the path against /api/openapi.json.",
    ),
    answer(405, "method_not_allowed", "Method not allowed", false, "The path exists, but not with this method.", "Use one of the methods of the Allow header."),
    answer(
        409,
        "state_conflict",
        "The state does not allow it",
        false,
        "The request is in a state that does not allow this action.",
        "Look at `state` and `allowed` in the answer; wait for another state, or use one of the allowed actions.",
    ),
    answer(
        409,
        "name_taken",
        "The name is taken",
        false,
        "Another request of the tenant that is not rolled back (or another tenant or cluster) has this name.",
        "Choose another name, or release the holder, whose id is in the answer.",
    ),
    answer(409, "not_ready", "Not ready", true, "The service is not verified yet.", "Ask again when the request is completed."),
    answer(
        409,
        "in_use",
        "Still in use",
        false,
        "Something still stands on it; `counts` in the answer says what. Of a failed operation: the backend says that the object is in use.",
        "Deprovision what uses it first, and wait until clean-up that is owed is done.",
    ),
    answer(
        412,
        "precondition_failed",
        "Changed in the meantime",
        false,
        "The version in If-Match is not the present one: somebody else changed it.",
        "Read it again, apply your change to what you find, and send the new etag.",
    ),
    answer(413, "too_large", "Too large", false, "The body is over 1 MiB, or a batch has over 1,000 requests.", "Send less at once."),
    answer(
        422,
        "invalid_request",
        "The input is not valid",
        false,
        "One or more values break a rule. `errors` names each with its JSON pointer, the rule and the value.",
        "Correct every value named. Unknown keys are refused so that typing errors do not pass silently.",
    ),
    answer(
        422,
        "idempotency_mismatch",
        "The idempotency key was used with another body",
        false,
        "A former call with this Idempotency-Key had another body.",
        "Use a fresh key for a new call; use the same key only to repeat the very same call.",
    ),
    answer(
        422,
        "quota_exceeded",
        "The quota is used up",
        false,
        "It would take more than the tenant's quota allows; `dimensions` names each limit, what is used and what was asked. Of a failed operation: our project's quota at the backend is used up.",
        "Ask for less, release something, or have an administrator raise the limit.",
    ),
    answer(
        422,
        "dependency_cycle",
        "The prerequisites form a circle",
        false,
        "Requests of the batch depend on each other in a circle; `cycle` shows it.",
        "Remove one of the depends_on entries of the circle.",
    ),
    answer(
        422,
        "dependency_unknown",
        "Unknown prerequisite",
        false,
        "A depends_on entry is neither a name in the batch nor the id of a live request of the tenant.",
        "Correct the entry named by the pointer.",
    ),
    answer(
        422,
        "dependency_ended",
        "The prerequisite has ended",
        false,
        "A depends_on entry names a request that will not become or stay a running service.",
        "Ask for the prerequisite anew (retry), and depend on the new request.",
    ),
    answer(
        422,
        "no_cluster",
        "No cluster can take it",
        false,
        "No registered cluster can ever fit the request; the answer has the reason for each. Of a failed request: none could take it any more.",
        "Change kind, provider, region or size, or have an administrator register or enlarge a cluster.",
    ),
    answer(429, "rate_limited", "Too many at once", true, "There are too many calls or open streams.", "Wait as long as Retry-After says, and close streams that nobody reads."),
    answer(
        503,
        "unavailable",
        "Not available now",
        true,
        "The store or the backend could not be reached in time. Nothing of the call was stored, unless the detail says otherwise.",
        "Try again after a pause. Repeat a POST with the same Idempotency-Key, so that it is done once.",
    ),
];

/// Why requests and operations fail.
const FAILURES: &[ErrorCode] = &[
    failure("action_failed", "The action failed", true, "A suspend or reactivate could not be carried out.", "Look at the operations in the timeline. A suspend is tried again by itself; ask again for a reactivate."),
    failure("action_without_effect", "The action had no effect", true, "The backend accepted the action but the object did not change.", "It is tried again by itself; if it stays, look at the object at the backend."),
    failure("answer_lost", "The answer was lost", true, "The connection broke before the backend's answer came; what was asked may have been done.", "Nothing: the object is looked for by its tag before anything is made again."),
    failure("backend_error", "The backend reports an error", true, "The backend answered with an error of its own.", "It is tried again by itself; the message has the backend's words."),
    failure("bad_configuration", "The cluster is not set up rightly", false, "A setting of the cluster cannot work.", "Have an administrator correct the cluster's settings."),
    failure("bad_request", "The backend refuses the request", false, "The backend does not accept what it was asked.", "The message has the backend's words; change the specification or the cluster's settings."),
    failure("build_failed", "The server could not be built", true, "The backend gave up building the server.", "It is made anew by itself, or elsewhere; if it stays, look at the backend's compute service."),
    failure("capacity", "No room", true, "The backend has no room for it now.", "Another cluster is tried by itself where the strategy allows; else free or add capacity."),
    failure("conflict", "The object is busy", true, "The backend is doing something else with the object.", "It is tried again by itself."),
    failure("credentials_refused", "The backend refuses our credentials", false, "Credentials of the cluster are wrong, expired or locked.", "Have an administrator replace the cluster's credentials (PATCH), then test it."),
    failure("dependency_failed", "A prerequisite failed", false, "A request that this one depends on ended without completing.", "Retry the prerequisite, then this request."),
    failure("failed", "It failed", false, "The request failed without a more exact reason.", "Look at its timeline with its operations."),
    failure("flavor_not_found", "No flavor fits", false, "The backend has no flavor of the size asked for.", "Ask for another size, or have an administrator add a flavor or settings.flavors."),
    failure("flavor_not_usable", "The flavor does not fit", false, "The flavor does not go with the image or the disk.", "Ask for another size or image."),
    failure("identity_changed", "Another backend answers", false, "The backend at the cluster's address is not the one where its resources were made.", "Have an administrator point the cluster at the old backend; nothing is believed to be gone until then."),
    failure("image_not_found", "The image is not there", false, "The backend has no such image.", "Check the image's name, or have an administrator add it to settings.images."),
    failure("image_not_usable", "The image cannot be used", false, "The image is not active, too large or not readable.", "Use another image."),
    failure("network_ambiguous", "Several networks have this name", false, "The network of the cluster's settings is not unique.", "Have an administrator name the network by its id."),
    failure("network_not_found", "The network is not there", false, "The network of the cluster's settings does not exist.", "Have an administrator correct settings.network or settings.external_network."),
    failure("network_not_reachable", "The network has no way out", false, "The tenant network has no router to the external network.", "Have an administrator connect them."),
    failure("network_setup_failed", "The network could not be set up", true, "The backend could not connect the server to its network.", "It is tried again by itself; if it stays, look at the backend's network service."),
    failure("no_address", "It has no address", true, "The server has no address yet.", "It is looked at again by itself."),
    failure("no_addresses", "No address is left", true, "The backend's network has no free address.", "Release addresses, or have an administrator enlarge the network."),
    failure("no_endpoint", "The service is missing", false, "The backend's catalogue does not offer a service that is needed.", "Have an administrator check region_name, interface and overrides of the cluster."),
    failure("no_storage_backend", "No storage takes it", true, "No storage of the backend takes the volume.", "Check size and settings.volume_type; free or add storage."),
    failure("no_valid_host", "No host takes it", true, "The backend found no host with room for the server.", "Another cluster is tried by itself where the strategy allows; else free or add capacity."),
    failure("not_allowed", "Our account may not do it", false, "The backend's policy forbids it to the cluster's account.", "Have an administrator give the account the needed role."),
    failure("not_supported", "The backend cannot do it", false, "The backend does not offer what was asked.", "Use another cluster."),
    failure("operation_timed_out", "It took too long", true, "An operation passed its deadline. The message says what was seen last.", "It is tried again by itself; where a deadline is too short, raise settings.deadlines of the cluster."),
    failure("probe_failed", "The probe had no good answer", true, "The service did not answer as it should.", "It is probed again until the deadline; check ports, image and user_data."),
    failure("probe_not_allowed", "The address may not be probed", false, "The address is in a range that probes may not reach.", "Have an administrator add it to probes.allow_cidrs."),
    failure("probe_url", "The address cannot be probed", false, "The endpoint is not an address that can be asked.", "Correct the endpoint or the probes of the specification."),
    failure("queue_timeout", "It waited too long", true, "It was not placed within its queue_timeout_seconds.", "Retry it, or have an administrator add capacity."),
    failure("refused", "The backend says no", false, "The backend refuses the call.", "The message has the backend's words."),
    failure("server_locked", "The server is locked", true, "Somebody locked the server at the backend.", "Unlock it there."),
    failure("service_failed", "The backend fails", true, "The backend answered with an error of its own, or not at all.", "It is tried again by itself; if it stays, look at the backend."),
    failure("spec_not_servable", "This cluster cannot serve it", false, "The specification asks for something that this cluster does not have.", "Change the specification, or let another cluster take it."),
    failure("storage_slow", "The volume took too long", true, "The backend gave up waiting for the volume.", "It is tried again by itself; if it stays, look at the backend's storage."),
    failure("stuck", "Nothing moved", true, "The request made no progress for the stuck limit.", "Look at the timeline for the operation that hangs; retry the request."),
    failure("superseded", "Something else was asked for", false, "Another action was asked for before this one ended.", "Nothing: the newest wish is pursued."),
    failure("throttled", "The backend asks us to slow down", true, "The backend's rate limit was reached.", "It waits by itself; have an administrator raise the limit if this happens often."),
    failure("transient", "A passing error", true, "The backend failed in a way that may pass.", "It is tried again by itself."),
    failure("unexpected_answer", "An answer that makes no sense", true, "The backend's answer could not be read.", "Check that the cluster's endpoint is the backend itself and not a proxy's page."),
    failure("unknown_kind", "Unknown kind of resource", false, "The backend adapter does not know this kind of resource.", "This is a fault of Provisor or of its store; report it."),
    failure("unknown_operation", "Unknown operation", false, "The backend adapter does not know an operation of the plan.", "This is a fault of Provisor; report it."),
    failure("unreachable", "The backend cannot be reached", true, "No connection to the backend could be made.", "It is tried again by itself; check the cluster's endpoint and the network (POST /api/clusters/NAME/test)."),
    failure("vanished", "It disappeared", true, "Something that was made is not there any more.", "It is made anew by itself where possible; look for who deletes it at the backend."),
    failure("volume_attach_failed", "The volume could not be attached", true, "The backend could not attach the volume.", "It is tried again by itself."),
    failure("volume_failed", "The volume failed", true, "The backend gave up making the volume.", "It is made anew by itself."),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_stand_once_and_say_something() {
        let mut seen = std::collections::BTreeSet::new();
        for code in all() {
            assert!(seen.insert(code.code), "{} stands twice", code.code);
            assert!(code.code.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{}", code.code);
            assert!(!code.title.is_empty() && code.happened.ends_with('.') && code.remedy.ends_with('.'), "{}", code.code);
            assert_eq!(find(code.code), Some(code));
        }
    }

    #[test]
    fn the_contract_s_codes_have_their_status() {
        let contract = [
            ("invalid_request", 422), ("malformed_body", 400), ("unauthenticated", 401), ("forbidden", 403), ("not_found", 404),
            ("state_conflict", 409), ("name_taken", 409), ("not_ready", 409), ("in_use", 409), ("idempotency_mismatch", 422),
            ("quota_exceeded", 422), ("dependency_cycle", 422), ("dependency_unknown", 422), ("dependency_ended", 422),
            ("precondition_failed", 412), ("too_large", 413), ("rate_limited", 429), ("no_cluster", 422), ("unavailable", 503),
        ];
        for (code, status) in contract {
            assert_eq!(find(code).and_then(|c| c.status), Some(status), "{code}");
        }
    }
}

//! Every error code that users meet, as data: problem documents, the pages `/errors/CODE` and the docs are
//! made from this table. A code that is not here is a fault of ours and a test says so.
//!
//! Two families: what the API refuses a call with (`status` is given), and why a request or one of its
//! operations failed (`status` is `None`; such codes stand in `error.code`). Some words mean both.

mod failures;

use failures::FAILURES;

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
    answer(
        403,
        "forbidden",
        "Not allowed",
        false,
        "The token is good, but its role may not do this.",
        "Use a token with the needed role, or ask an administrator.",
    ),
    answer(
        404,
        "not_found",
        "Not found",
        false,
        "There is no such thing, or it is not visible to this token; or this version has no such path.",
        "Check the id or name, and the path against /api/openapi.json.",
    ),
    answer(
        405,
        "method_not_allowed",
        "Method not allowed",
        false,
        "The path exists, but not with this method.",
        "Use one of the methods of the Allow header.",
    ),
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
    answer(
        413,
        "too_large",
        "Too large",
        false,
        "The body is over 1 MiB, or a batch has over 1,000 requests.",
        "Send less at once.",
    ),
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
    answer(
        429,
        "rate_limited",
        "Too many at once",
        true,
        "There are too many calls or open streams.",
        "Wait as long as Retry-After says, and close streams that nobody reads.",
    ),
    answer(
        503,
        "unavailable",
        "Not available now",
        true,
        "The store or the backend could not be reached in time. Nothing of the call was stored, unless the detail says otherwise.",
        "Try again after a pause. Repeat a POST with the same Idempotency-Key, so that it is done once.",
    ),
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
            ("invalid_request", 422),
            ("malformed_body", 400),
            ("unauthenticated", 401),
            ("forbidden", 403),
            ("not_found", 404),
            ("state_conflict", 409),
            ("name_taken", 409),
            ("not_ready", 409),
            ("in_use", 409),
            ("idempotency_mismatch", 422),
            ("quota_exceeded", 422),
            ("dependency_cycle", 422),
            ("dependency_unknown", 422),
            ("dependency_ended", 422),
            ("precondition_failed", 412),
            ("too_large", 413),
            ("rate_limited", 429),
            ("no_cluster", 422),
            ("unavailable", 503),
        ];
        for (code, status) in contract {
            assert_eq!(find(code).and_then(|c| c.status), Some(status), "{code}");
        }
    }
}

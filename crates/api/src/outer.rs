//! The outermost layer: request ids, panics, and every error as a problem document.

use std::panic::AssertUnwindSafe;

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::FutureExt;

use crate::chance;
use crate::problem::{MEDIA_TYPE, Problem};

/// Names a call in answers and logs.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest request id that is taken over from the caller.
const REQUEST_ID_LIMIT: usize = 128;

/// Wraps every call.
pub(crate) async fn finish(request: Request, next: Next) -> Response {
    let id = request_id(request.headers());
    let path = request.uri().path().to_owned();
    let method = request.method().clone();
    let mut response = match AssertUnwindSafe(next.run(request)).catch_unwind().await {
        Ok(response) => response,
        Err(_) => Problem::internal("a handler panicked").into_response(),
    };
    if let Some(problem) = problem_in(&mut response) {
        if let Some(private) = problem.private() {
            let code = problem.code();
            // Why no louder: the store tells once that it cannot be used, however many callers try.
            if problem.status() == StatusCode::SERVICE_UNAVAILABLE {
                tracing::debug!(request_id = %id, %method, %path, code, error = private, "call failed");
            } else {
                tracing::error!(request_id = %id, %method, %path, code, error = private, "call failed");
            }
        }
        let kept = std::mem::take(response.headers_mut());
        response = problem.render(&path, &id, kept);
    }
    tracing::debug!(request_id = %id, %method, %path, status = response.status().as_u16(), "call");
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID, value);
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// The problem of an answer: one of ours, or what the router answered by itself.
fn problem_in(response: &mut Response) -> Option<Problem> {
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        return Some(problem);
    }
    let status = response.status();
    let written = response.headers().get(header::CONTENT_TYPE).is_some_and(|t| t == MEDIA_TYPE);
    if written || !(status.is_client_error() || status.is_server_error()) {
        return None;
    }
    Some(match status {
        StatusCode::NOT_FOUND => Problem::new("not_found", "There is no such path."),
        StatusCode::METHOD_NOT_ALLOWED => Problem::new("method_not_allowed", "The path does not take this method."),
        StatusCode::PAYLOAD_TOO_LARGE => Problem::new("too_large", "The body is too large."),
        s if s.is_client_error() => Problem::new("malformed_body", "The call cannot be read."),
        s => Problem::internal(format!("the router answered {s}")),
    })
}

fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get(&REQUEST_ID).and_then(|v| v.to_str().ok());
    let fits = |id: &&str| !id.is_empty() && id.len() <= REQUEST_ID_LIMIT && id.bytes().all(|b| b.is_ascii_graphic());
    given.filter(fits).map_or_else(chance::word, str::to_owned)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
    use super::*;
    use axum::Router;
    use axum::body::{Body, to_bytes};
    use axum::routing::get;
    use tower::ServiceExt;

    async fn ask(path: &str) -> (StatusCode, serde_json::Value) {
        let broken = get(|| async { (StatusCode::BAD_GATEWAY, "secret").into_response() });
        let panics = get(|| async { if true { panic!("secret") } else { StatusCode::OK } });
        let router = Router::new().route("/panics", panics).route("/broken", broken).layer(axum::middleware::from_fn(finish));
        let response = router.oneshot(Request::get(path).body(Body::empty()).unwrap()).await.unwrap();
        let status = response.status();
        let bytes = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, serde_json::from_slice(&bytes).unwrap())
    }

    #[tokio::test]
    async fn what_breaks_inside_shows_nothing_of_it() {
        for path in ["/panics", "/broken"] {
            let (status, body) = ask(path).await;
            assert_eq!(
                (status, &body["code"], &body["instance"]),
                (StatusCode::INTERNAL_SERVER_ERROR, &"internal".into(), &path.into())
            );
            assert!(!body.to_string().contains("secret"));
            assert!(body["request_id"].as_str().is_some_and(|id| id.len() == 16));
        }
    }
}

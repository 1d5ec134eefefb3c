//! Who calls. The permission is an extractor in the handler's signature, so that a handler says what it
//! needs, and a test lists every route with it.
//!
//! A token is known by its SHA-256 digest: the text is compared by nobody, so nothing leaks by time. Digests
//! found are kept for a few seconds, so that a burst of calls does not ask the store each time; a revoked
//! token is refused after at most that.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::{header, request::Parts};
use provisor_core::event::Actor;
use provisor_store::ops::tokens::{FindToken, TokenView};
use tokio::time::Instant;

use crate::App;
use crate::problem::Problem;

/// The role that may do everything.
pub const PLATFORM_ADMIN: &str = "platform_admin";
/// What every token begins with.
pub const PREFIX: &str = "pvr_";
/// How long a token that was found is believed.
const BELIEVED_FOR: Duration = Duration::from_secs(5);
/// Digests kept at once.
const KEPT: usize = 1024;
/// Longest token that is looked at.
const TOKEN_LIMIT_BYTES: usize = 512;

/// The digest under which a token is stored: SHA-256 in hexadecimal digits.
pub fn digest(token: &str) -> String {
    hex(ring::digest::digest(&ring::digest::SHA256, token.as_bytes()).as_ref())
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    let digit = |n: u8| char::from_digit(u32::from(n), 16).unwrap_or('0');
    bytes.iter().flat_map(|b| [digit(b >> 4), digit(b & 15)]).collect()
}

/// A platform administrator.
#[derive(Debug, Clone)]
pub struct Admin {
    /// As whom the log names the caller.
    pub actor: Actor,
}

impl FromRequestParts<App> for Admin {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let token = bearer(parts).ok_or_else(|| unauthenticated("The call has no token."))?;
        let hash = digest(token);
        let found = app.known_token(hash).await?.ok_or_else(|| unauthenticated("The token is unknown, expired or revoked."))?;
        if found.role != PLATFORM_ADMIN {
            return Err(Problem::new("forbidden", format!("The role {} may not do this.", found.role)));
        }
        Ok(Self { actor: Actor { kind: "token".to_owned(), id: found.id.to_string() } })
    }
}

impl App {
    async fn known_token(&self, hash: String) -> Result<Option<TokenView>, Problem> {
        if let Some(kept) = self.tokens.get(&hash) {
            return Ok(Some(kept));
        }
        let found = self.store().run(FindToken { hash: hash.clone() }).await?;
        if let Some(view) = &found {
            self.tokens.keep(hash, view.clone());
        }
        Ok(found)
    }
}

fn bearer(parts: &Parts) -> Option<&str> {
    let value = parts.headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() && token.len() <= TOKEN_LIMIT_BYTES).then_some(token)
}

fn unauthenticated(detail: &str) -> Problem {
    Problem::new("unauthenticated", detail).header(header::WWW_AUTHENTICATE, "Bearer")
}

/// Tokens that were found a moment ago.
#[derive(Debug, Default)]
pub(crate) struct Tokens(Mutex<BTreeMap<String, (Instant, TokenView)>>);

impl Tokens {
    fn get(&self, hash: &str) -> Option<TokenView> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get(hash).filter(|(at, _)| at.elapsed() < BELIEVED_FOR).map(|(_, view)| view.clone())
    }

    fn keep(&self, hash: String, view: TokenView) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT {
            kept.retain(|_, (at, _)| at.elapsed() < BELIEVED_FOR);
        }
        if kept.len() < KEPT {
            kept.insert(hash, (Instant::now(), view));
        }
    }
}

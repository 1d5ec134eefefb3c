//! The simulated cloud as a process of its own: `provisor simcloud`.
//!
//! It outlives Provisor and listens on loopback only, because it asks nobody for a login. All questions take one road,
//! `POST /sim/{cluster}/call`; `GET /sim/{cluster}/inventory` is for people and for outside checks. A call that hangs
//! or whose answer is lost is kept open and never answered.

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Path as Segment, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use provisor_core::spec::is_dns_label;
use serde::Deserialize;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::cloud::{Clock, Cloud};
use crate::disk::DiskError;
use crate::port::{Ask, CloudPort as _};
use crate::remote::Parcel;

/// Largest question.
const BODY: usize = 1 << 20;
/// Time for what is under way once it is to end; what hangs is cut off.
const GRACE: Duration = Duration::from_secs(1);

/// Why the simulated cloud cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum FrontError {
    /// Its memory cannot be used.
    #[error(transparent)]
    Memory(#[from] DiskError),
    /// The address cannot be used.
    #[error("the simulated cloud cannot listen on {0}: {1}")]
    Listen(SocketAddr, std::io::Error),
    /// It would be open to the network.
    #[error("the simulated cloud has no login and listens on loopback only, not on {0}")]
    NotLoopback(SocketAddr),
}

/// A simulated cloud that is ready to be served.
pub struct Front {
    cloud: Arc<Cloud>,
    listener: TcpListener,
    address: SocketAddr,
    folder: PathBuf,
}

impl Front {
    /// Opens the cloud in `folder` and listens. Port 0 takes a free one.
    pub async fn bind(listen: SocketAddr, folder: &Path, clock: Clock) -> Result<Self, FrontError> {
        if !listen.ip().is_loopback() {
            return Err(FrontError::NotLoopback(listen));
        }
        let cloud = Arc::new(Cloud::open(folder, clock)?);
        let listener = TcpListener::bind(listen).await.map_err(|e| FrontError::Listen(listen, e))?;
        let address = listener.local_addr().map_err(|e| FrontError::Listen(listen, e))?;
        cloud.listen_again();
        Ok(Self { cloud, listener, address, folder: folder.to_owned() })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` is done. The address is written to `listen` in the folder.
    pub async fn serve(self, shutdown: impl Future<Output = ()> + Send + 'static) -> Result<(), FrontError> {
        let wrong = |e| FrontError::Listen(self.address, e);
        tokio::fs::write(self.folder.join("listen"), self.address.to_string()).await.map_err(wrong)?;
        let (end, ended) = watch::channel(false);
        let router = router(Desk { cloud: Arc::clone(&self.cloud), ended: ended.clone() });
        let mut begun = ended;
        let asked = async move {
            let _ = begun.wait_for(|end| *end).await;
        };
        let served = axum::serve(self.listener, router).with_graceful_shutdown(asked);
        let cut_off = async move {
            shutdown.await;
            let _ = end.send(true);
            tokio::time::sleep(GRACE).await;
        };
        tokio::select! {
            biased;
            result = async { served.await } => result.map_err(wrong),
            () = cut_off => Ok(()),
        }
    }
}

/// Opens the cloud in `folder` and serves it on `listen` until `shutdown` is done.
pub async fn serve(
    listen: SocketAddr,
    folder: &Path,
    clock: Clock,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), FrontError> {
    Front::bind(listen, folder, clock).await?.serve(shutdown).await
}

/// What the handlers need.
#[derive(Clone)]
struct Desk {
    cloud: Arc<Cloud>,
    ended: watch::Receiver<bool>,
}

fn router(desk: Desk) -> Router {
    Router::new()
        .route("/sim/{cluster}/call", post(call))
        .route("/sim/{cluster}/inventory", get(inventory))
        .route("/health/live", get(|| async { Json(json!({"ok": true})) }))
        .layer(DefaultBodyLimit::max(BODY))
        .with_state(desk)
}

async fn call(State(mut desk): State<Desk>, Segment(cluster): Segment<String>, Json(ask): Json<Ask>) -> Response {
    if !is_dns_label(&cluster) {
        return (StatusCode::BAD_REQUEST, "not a name of a cluster").into_response();
    }
    // What hangs would outlive the end.
    let result = tokio::select! {
        biased;
        result = desk.cloud.call(&cluster, ask) => result,
        _ = desk.ended.wait_for(|end| *end) => return (StatusCode::SERVICE_UNAVAILABLE, "ending").into_response(),
    };
    Json(result.map_or_else(Parcel::Failure, Parcel::Reply)).into_response()
}

#[derive(Debug, Deserialize)]
struct Which {
    #[serde(default)]
    live: bool,
}

async fn inventory(State(desk): State<Desk>, Segment(cluster): Segment<String>, Query(which): Query<Which>) -> Response {
    match desk.cloud.inventory(&cluster, which.live) {
        Some(inventory) => Json(inventory).into_response(),
        None => (StatusCode::NOT_FOUND, Json(json!({"code": "not_found", "detail": "no such cluster"}))).into_response(),
    }
}

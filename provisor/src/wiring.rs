//! The only place that knows all concrete types: it opens the store, starts the engine and serves the API.
//!
//! What can fail for a reason that its user can mend (a folder, a port, a key) fails here with one line and
//! exit code 2, before any work is claimed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use provisor_api::{App, EngineBackend};
use provisor_core::cluster::ProviderType;
use provisor_core::spec::Strategy;
use provisor_core::{Span, Timestamp};
use provisor_engine::{Connectors, Engine, Running};
use provisor_manual::ManualConnector;
use provisor_openstack::OpenstackConnector;
use provisor_provider::{Cidr, Connector};
use provisor_simulation::{Front, Simulation};
use provisor_store::driver::postgres::PostgresError;
use provisor_store::lock::{DataLock, LockError};
use provisor_store::vault::Vault;
use provisor_store::{OpError, OpenError, Store};
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::config::{Database, Settings};
use crate::fail::Fail;

mod token;

/// The folder of the simulated cloud inside the data folder.
const SIMULATION_FOLDER: &str = "simcloud";
/// Why `api` and `worker` do not start on SQLite (API.md, Configuration).
const NEEDS_POSTGRES: &str = "api and worker are processes of their own and need PostgreSQL: set database.url to postgres://…; \
     on SQLite one process holds the data folder, so use serve";
/// How long open connections may take to end once the engine has.
const HTTP_GRACE: Duration = Duration::from_secs(3);

/// What a process does of all that there is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Everything.
    Serve,
    /// It answers, and others do the work.
    Api,
    /// It does the work, and others answer.
    Worker,
}

/// A running server.
pub(crate) struct Server {
    /// Where it listens; a worker does not.
    pub(crate) address: Option<SocketAddr>,
    running: Running,
    http: Option<JoinHandle<std::io::Result<()>>>,
    closing: watch::Sender<bool>,
    // Why last: the folder is held until everything else is gone.
    _locks: Vec<DataLock>,
}

impl Server {
    /// Waits until a part of it has failed; in words.
    pub(crate) async fn failed(&mut self) -> String {
        let Some(http) = &mut self.http else { return std::future::pending().await };
        match http.await {
            Ok(Ok(())) => "the API ended by itself".to_owned(),
            Ok(Err(error)) => format!("the API ended: {error}"),
            Err(error) => format!("the API ended: {error}"),
        }
    }

    /// Ends it politely: claims nothing more, waits for what is in flight, gives leases back.
    pub(crate) async fn stop(self) {
        self.closing.send_replace(true);
        if !self.running.shutdown().await {
            tracing::warn!("not everything ended in time; it is resumed at the next start");
        }
        let Some(mut http) = self.http else { return };
        if !http.is_finished() && tokio::time::timeout(HTTP_GRACE, &mut http).await.is_err() {
            http.abort();
        }
    }
}

/// Makes a folder for this user alone where it is missing.
fn folder(path: &Path) -> Result<(), Fail> {
    use std::os::unix::fs::DirBuilderExt as _;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|e| Fail::of_io(&format!("the data folder {} cannot be made", path.display()), &e))
}

/// Holds the data folder, and that of a database file where that is another. Processes that share a database share
/// the folder, too: of what is in it they only read the key.
fn locks(settings: &Settings, role: Role) -> Result<Vec<DataLock>, Fail> {
    if role != Role::Serve {
        folder(&settings.data_dir)?;
        return Ok(Vec::new());
    }
    let lock = |path: &Path| {
        folder(path)?;
        DataLock::acquire(path).map_err(|e| match e {
            LockError::Full { .. } => Fail::Unreachable(e.to_string()),
            _ => Fail::Usage(e.to_string()),
        })
    };
    let mut locks = vec![lock(&settings.data_dir)?];
    let Database::Sqlite(file) = &settings.database else { return Ok(locks) };
    let beside = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let same = match (beside.canonicalize(), settings.data_dir.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    };
    if !same {
        locks.push(lock(beside)?);
    }
    Ok(locks)
}

/// Opens the database. What nobody answers for may do at the next try, and so may a full disk: that has an exit code
/// of its own.
fn open(database: &Database) -> Result<Store, Fail> {
    let opened = match database {
        Database::Sqlite(path) => Store::open_sqlite(path),
        Database::Postgres(url) => Store::open_postgres(url),
    };
    opened.map_err(|error| match error {
        OpenError::Postgres(PostgresError::Unreachable { .. } | PostgresError::Full { .. }) | OpenError::Full { .. } => {
            Fail::Unreachable(error.to_string())
        }
        _ => Fail::Usage(error.to_string()),
    })
}

async fn listen(address: &str) -> Result<(TcpListener, SocketAddr), Fail> {
    let failed = |e: std::io::Error| Fail::Usage(format!("cannot listen on {address}: {e}"));
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

/// Random bits of the system.
fn random() -> u64 {
    let mut bytes = [0_u8; 8];
    // Why no error: the system's generator fails only before it is seeded at boot.
    let _ = SystemRandom::new().fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

fn span(duration: Duration) -> Span {
    Span::from_seconds_f64(duration.as_secs_f64())
}

/// The simulated cloud inside the process, or none where several processes would each have another.
fn simulation(settings: &Settings, role: Role, store: &Store) -> Result<Arc<Simulation>, Fail> {
    if role != Role::Serve {
        return Ok(Simulation::remote());
    }
    let store = store.clone();
    let memory = settings.data_dir.join(SIMULATION_FOLDER);
    Simulation::in_process(&memory, Arc::new(move || store.now())).map_err(|e| Fail::Usage(e.to_string()))
}

fn connectors(simulation: &Arc<Simulation>) -> Connectors {
    let mut all: Connectors = BTreeMap::new();
    all.insert(ProviderType::Simulation, Arc::clone(simulation) as Arc<dyn Connector>);
    all.insert(ProviderType::Openstack, Arc::new(OpenstackConnector));
    all.insert(ProviderType::Manual, Arc::new(ManualConnector));
    all
}

fn engine_config(settings: &Settings, role: Role) -> provisor_engine::Config {
    provisor_engine::Config {
        // A name of its own also where processes of other machines or containers use the same database.
        worker: format!("worker-{}-{:04x}", std::process::id(), random() & 0xffff),
        // Nobody else holds leases where nobody else can have the database open.
        alone: matches!(settings.database, Database::Sqlite(_)),
        works: role != Role::Api,
        concurrency: settings.worker_concurrency,
        lease: span(settings.lease),
        shutdown: span(settings.shutdown),
        stuck_after: span(settings.stuck_after),
        strategy: Strategy::of(settings.strategy),
        learns: settings.learns,
        probe_allow: settings.probe_cidrs.iter().filter_map(|c| Cidr::parse(c)).collect(),
        ..provisor_engine::Config::default()
    }
}

/// Starts everything that the role is about.
pub(crate) async fn start(settings: &Settings, role: Role) -> Result<Server, Fail> {
    if let (Role::Api | Role::Worker, Database::Sqlite(_)) = (role, &settings.database) {
        return Err(Fail::Usage(NEEDS_POSTGRES.to_owned()));
    }
    let locks = locks(settings, role)?;
    let listening = if role == Role::Worker { None } else { Some(listen(&settings.listen).await?) };
    let store = open(&settings.database)?;
    let vault = Vault::in_file(&settings.key_file, &store).await.map_err(|e| Fail::of_vault(&settings.database, &e))?;
    if role != Role::Worker {
        token::first(settings, &store).await?;
    }
    let simulation = simulation(settings, role, &store)?;
    let config = engine_config(settings, role);
    let engine = Engine::new(store.clone(), Arc::new(vault), connectors(&simulation), config, Box::new(random)).await;
    let cannot_start = |e: OpError| Fail::of_store("the engine cannot start", &settings.database, &e);
    let engine = engine.map_err(cannot_start)?;
    let running = engine.start().await.map_err(cannot_start)?;
    store.tell_outages();
    let (closing, closed) = watch::channel(false);
    let look = Box::new(move |cluster: &str, live: bool| simulation.inventory(cluster, live));
    let address = listening.as_ref().map(|(_, address)| *address);
    let http = listening.map(|(listener, _)| {
        let app = App::new(Arc::new(EngineBackend::new(engine, look)), closed.clone());
        tokio::spawn(serve(listener, app, closed))
    });
    Ok(Server { address, running, http, closing, _locks: locks })
}

/// The engine over a store that nobody works on: for what is done to it from the command line. The second is what holds
/// the folder meanwhile.
pub(crate) async fn at_rest(settings: &Settings) -> Result<(Arc<Engine>, Vec<DataLock>), Fail> {
    let (locks, role) = match (locks(settings, Role::Serve), &settings.database) {
        (Ok(locks), _) => (locks, Role::Serve),
        // Processes that share a database may be at work; what they simulate inside is not seen from here.
        (Err(_), Database::Postgres(_)) => (Vec::new(), Role::Worker),
        (Err(fail), Database::Sqlite(_)) => return Err(fail),
    };
    let store = open(&settings.database)?;
    let vault = Vault::in_file(&settings.key_file, &store).await.map_err(|e| Fail::of_vault(&settings.database, &e))?;
    let simulation = simulation(settings, role, &store)?;
    let engine =
        Engine::new(store, Arc::new(vault), connectors(&simulation), engine_config(settings, Role::Api), Box::new(random)).await;
    Ok((engine.map_err(|e| Fail::of_store("the store cannot be used", &settings.database, &e))?, locks))
}

/// Holds the folder of a database file while it is exchanged.
pub(crate) fn hold(settings: &Settings) -> Result<Vec<DataLock>, Fail> {
    locks(settings, Role::Serve)
}

/// Opens the database and brings its schema up to date.
pub(crate) fn migrate(settings: &Settings) -> Result<(), Fail> {
    let _locks = match &settings.database {
        Database::Sqlite(_) => locks(settings, Role::Serve)?,
        Database::Postgres(_) => Vec::new(),
    };
    open(&settings.database).map(drop)
}

async fn serve(listener: TcpListener, app: App, mut closing: watch::Receiver<bool>) -> std::io::Result<()> {
    let asked = async move {
        // An error means that the sender is gone, which is an end too.
        let _ = closing.wait_for(|closing| *closing).await;
    };
    axum::serve(listener, provisor_api::router(app)).with_graceful_shutdown(asked).await
}

/// Serves the simulated cloud until `shutdown` is done.
pub(crate) async fn simcloud(listen: &str, data: &Path, shutdown: impl Future<Output = ()> + Send + 'static) -> Result<(), Fail> {
    folder(data)?;
    let address = tokio::net::lookup_host(listen).await.ok().and_then(|mut found| found.next());
    let address =
        address.ok_or_else(|| Fail::Usage(format!("--listen {listen}: must be HOST:PORT, for example 127.0.0.1:8630")))?;
    let front = Front::bind(address, data, provisor_store::clock::wall(Timestamp(0))).await;
    let front = front.map_err(|e| Fail::Usage(e.to_string()))?;
    tracing::info!(address = %front.address(), data = %data.display(), "serving the simulated cloud");
    front.serve(shutdown).await.map_err(|e| Fail::Ended(e.to_string()))
}

//! Builds everything and runs it, in this order: access log, sockets, snapshot, services.
//!
//! Whatever can fail is done before anything answers, so that a start is whole or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use pingora_core::server::configuration::ServerConf;
use pingora_core::server::{RunArgs, Server, ShutdownSignal, ShutdownSignalWatch, ShutdownWatch};
use pingora_core::services::background::background_service;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::access_log::AccessLog;
use crate::admin::AdminService;
use crate::admin::control::Control;
use crate::admin::status::Status;
use crate::background::certificates::Certificates;
use crate::background::discovery::Discovery;
use crate::background::jwks::KeySets;
use crate::background::pressure::Pressure;
use crate::background::probe::{self, Probes};
use crate::background::reload::{Opened, Reloader};
use crate::background::revocations::{Revoker, Time};
use crate::background::upkeep::Upkeep;
use crate::background::watch::Watch;
use crate::background::{ratelimit, shared_keys};
use crate::config::model::LogOutput;
use crate::config::{Config, Fault, Loaded};
use crate::drain::{Exit, Orders};
use crate::filter::auth::jwks::Saved;
use crate::filter::auth::revocation::Estate;
use crate::filter::maintenance::Switches;
use crate::gateway::Gateway;
use crate::lifecycle::{Condition, Lifecycle};
use crate::listener::accept::{self, Socket};
use crate::listener::clients::Clients;
use crate::listener::connection::Edge;
use crate::listener::{self, ListenerState, Settings};
use crate::metrics::{Build, Metrics};
use crate::overload::Overload;
use crate::reply;
use crate::snapshot::{CompileError, Live, Snapshot};
use crate::store::Store;
use crate::tls;
use crate::upgrade::control as succession;
use crate::upgrade::predecessor::Predecessor;
use crate::upgrade::program::Program;
use crate::upgrade::{Kind, Offer, Succession};

/// What writing the last access log lines may take.
const FLUSH: Duration = Duration::from_secs(2);

/// Why the gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("{key}: cannot listen on {address}: {source}")]
    Bind {
        /// The key of the configuration that names it.
        key: String,
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// The access log cannot be written.
    #[error("access_log.output: {output:?} cannot be opened: {source}")]
    AccessLog {
        /// Where it was to go.
        output: LogOutput,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file that a listener names cannot be used.
    #[error("{0}")]
    Tls(Fault),
    /// The configuration cannot be run.
    #[error("routes: {0}")]
    Compile(#[from] CompileError),
    /// There can be no socket for successors where one was asked for.
    #[error("server.upgrade_socket: {0}")]
    UpgradeSocket(std::io::Error),
    /// A socket cannot be duplicated, or this program not be found.
    #[error("server: this process can have no successor: {0}")]
    Upgrade(std::io::Error),
    /// A thread cannot be started.
    #[error("server.threads: cannot start a worker: {0}")]
    Worker(std::io::Error),
    /// The thread of discovery cannot be started.
    #[error("upstreams: cannot start the thread of discovery: {0}")]
    Discovery(std::io::Error),
    /// The thread of the shared store cannot be started.
    #[error("redis: cannot start its thread: {0}")]
    Store(std::io::Error),
}

/// The addresses that were really taken, port 0 resolved.
pub struct Bound {
    /// Of the listeners, in the order of the file.
    pub listeners: Vec<SocketAddr>,
    /// Of the operators' listener.
    pub admin: Option<SocketAddr>,
}

/// Runs the gateway until it is told to stop. Once it serves, `announce` is told where.
pub fn run(
    loaded: Loaded,
    metrics: Arc<Metrics>,
    build: Build,
    succession: &mut Succession,
    announce: Option<&dyn Fn(&Bound)>,
) -> Result<(), StartError> {
    tls::install_provider();
    let config = &loaded.config;
    raise_file_limit(config.limits.max_connections);
    let mut bound = Bound {
        listeners: Vec::new(),
        admin: None,
    };
    let access_log = open_access_log(config, &metrics)?;
    let mut inherited = succession.predecessor.as_mut();
    let sockets = bind_listeners(config, &metrics, &mut inherited, &mut bound)?;
    let admin = bind_admin(config, &mut inherited, &mut bound)?;
    let inheritance = inherited.map_or_else(Inheritance::default, |predecessor| {
        Inheritance::read(predecessor.state())
    });
    let generation = inheritance.generation + 1;
    let snapshot = Snapshot::compile(config, generation, &metrics, Instant::now(), None)?;
    let lifecycle = Arc::<Lifecycle>::default();
    let discovery = Discovery::start(Arc::clone(&metrics), Arc::clone(&lifecycle));
    let discovery = discovery.map_err(StartError::Discovery)?;
    discovery.prepare(config);
    discovery.fill(&snapshot);
    if succession.predecessor.is_some() {
        for upstream in &snapshot.upstreams {
            upstream.presume_well(Instant::now());
        }
    }
    snapshot.import(&inheritance.maintenance);
    snapshot.drain(&inheritance.draining, Instant::now());
    snapshot.auth.import(inheritance.key_sets);
    let revocations = Arc::clone(snapshot.auth.revocations());
    inheritance
        .revocations
        .enter(&revocations, Time::now().seconds());
    let store = Store::start(Arc::clone(metrics.redis())).map_err(StartError::Store)?;
    store.configure(config.redis.as_ref());
    let revoker = Revoker::start(revocations, &store, &metrics);
    shared_keys::start(snapshot.auth.shared_keys(), &store);
    ratelimit::start(snapshot.rate_limits.shared(), &store);
    metrics.set_build(build);
    metrics.set_config(snapshot.generation, snapshot.source_hash);
    metrics.reloads_succeeded().inc();
    let (end, ending) = watch::channel(false);
    let gateway = Gateway {
        live: Arc::new(Live::new(snapshot)),
        lifecycle,
        refusals: reply::LABELS
            .iter()
            .map(|label| metrics.refusal(label))
            .collect(),
        access_log: access_log.clone(),
        overload: Arc::new(Overload::new(Arc::clone(metrics.overload()))),
        metrics,
        pool: Arc::default(),
        ending,
    };
    discovery.run(Arc::clone(&gateway.live));
    ratelimit::watch_readiness(&gateway.live, &gateway.lifecycle, &store);
    gateway.lifecycle.met(Condition::Config);
    if gateway.live.load().auth.remote_keys().next().is_none() {
        gateway.lifecycle.met(Condition::KeySets);
    }
    // A process that takes over is in charge of requests already, and presumes all to be well.
    if succession.predecessor.is_some() || !probe::is_waited_for(&gateway.live.load()) {
        gateway.lifecycle.met(Condition::HealthChecks);
    }
    let (close, closing) = watch::channel(false);
    let listeners: Vec<_> = sockets
        .iter()
        .map(|one| Arc::clone(&one.listener))
        .collect();
    let live = Arc::clone(&gateway.live);
    let metrics = Arc::clone(&gateway.metrics);
    let opened = opened(config, &sockets);
    let reloader = Reloader::new(&loaded, opened, Arc::clone(&live), metrics);
    let reloader = reloader.with_store(Arc::clone(&store));
    let reloader = Arc::new(reloader.with_discovery(Arc::clone(&discovery)));
    let control = control(
        config,
        &gateway,
        &reloader,
        &revoker,
        succession,
        &sockets,
        admin.as_ref(),
    )?;
    let (take_charge, in_charge) = watch::channel(false);
    let server = build_server(
        &gateway,
        admin,
        build,
        listeners,
        Shared {
            reloader: Arc::clone(&reloader),
            discovery,
            store,
            revoker: Arc::clone(&revoker),
        },
        in_charge,
        closing.clone(),
    );
    start_workers(config, &gateway, sockets, &closing)?;
    // It can be large, and what runs does not need it.
    drop(loaded);
    gateway.lifecycle.met(Condition::Listeners);
    if let Some(announce) = announce {
        announce(&bound);
    }
    server.run(RunArgs {
        shutdown_signal: Box::new(Drain {
            exit: Exit::new(
                Arc::clone(&gateway.lifecycle),
                Box::new(move || live.load().shutdown.clone()),
                Orders { close, end },
                control,
                succession.predecessor.take(),
                Box::new(move |left| {
                    // Null, or what another version leaves: what came with the sockets stays.
                    if let Ok(left) = Inheritance::deserialize(left) {
                        reloader.take_over(&left.maintenance);
                        reloader
                            .in_charge(|snapshot| snapshot.drain(&left.draining, Instant::now()));
                        let now = Time::now().seconds();
                        left.revocations.enter(revoker.list(), now);
                    }
                    take_charge.send_replace(true);
                }),
            ),
        }),
    });
    if let Some(log) = access_log {
        log.flush(FLUSH);
    }
    Ok(())
}

/// Descriptors beside those of connections: logs, sockets, reactors.
const OTHER_FILES: u64 = 1000;

/// Raises the limit on open files to what the connections may need, as far as the system lets it.
///
/// Every client's connection may come with one to a backend.
fn raise_file_limit(max_connections: usize) {
    let wanted = 2 * max_connections as u64 + OTHER_FILES;
    match rlimit::increase_nofile_limit(wanted) {
        Ok(granted) if granted < wanted => log::warn!(
            "the limit on open files is {granted}, too low for limits.max_connections of \
             {max_connections}: raise it to {wanted}, or lower the key"
        ),
        Ok(_) => {}
        Err(error) => log::warn!("the limit on open files cannot be raised: {error}"),
    }
}

/// What one process leaves to the next beside its sockets.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Inheritance {
    /// The number of its last configuration; the first one has 1.
    generation: u64,
    /// What is switched at run time.
    maintenance: Switches,
    /// The backends that operators drain, by upstream.
    draining: BTreeMap<String, BTreeSet<String>>,
    /// Keys that were fetched: its successor need not wait for them.
    key_sets: Vec<Saved>,
    /// Which tokens hold no longer.
    revocations: Estate,
}

/// What operators can change, and what is shared with other instances.
struct Shared {
    reloader: Arc<Reloader>,
    discovery: Arc<Discovery>,
    store: Arc<Store>,
    revoker: Arc<Revoker>,
}

impl Inheritance {
    fn of(snapshot: &Snapshot, revoker: &Revoker) -> Self {
        let now = Time::now().seconds();
        Self {
            generation: snapshot.generation,
            maintenance: snapshot.export(),
            draining: snapshot.draining(),
            key_sets: snapshot.auth.export(),
            revocations: Estate::of(revoker.list(), now, revoker.is_in_sync()),
        }
    }

    fn write(&self) -> serde_json::Value {
        serde_json::to_value(self).unwrap_or_default()
    }

    /// What another version leaves may be of another shape; then there is nothing.
    fn read(state: &serde_json::Value) -> Self {
        Self::deserialize(state).unwrap_or_default()
    }
}

fn bind_listeners(
    config: &Config,
    metrics: &Metrics,
    inherited: &mut Option<&mut Predecessor>,
    bound: &mut Bound,
) -> Result<Vec<Socket>, StartError> {
    let mut sockets = Vec::with_capacity(config.listeners.len());
    for (index, configured) in config.listeners.iter().enumerate() {
        let key = format!("listeners[{index}].address");
        let (socket, address) = bind(key, Kind::Listener, configured.address, inherited)?;
        let settings = Settings::compile(configured).map_err(|faults| first(index, faults))?;
        let listener = Arc::new(ListenerState::new(configured, settings, metrics));
        log::info!("listening on {address} (listener {})", listener.name);
        bound.listeners.push(address);
        sockets.push(Socket { listener, socket });
    }
    Ok(sockets)
}

/// The files were checked before, and all faults told then; this one came up since.
fn first(index: usize, faults: Vec<Fault>) -> StartError {
    let mut faults = tls::at_listener(index, faults);
    StartError::Tls(faults.next().unwrap_or_else(|| Fault {
        key: format!("listeners[{index}].tls"),
        path: None,
        what: "cannot be used".to_owned(),
    }))
}

/// The listeners as reloads find them.
fn opened(config: &Config, sockets: &[Socket]) -> Vec<Opened> {
    let pairs = config.listeners.iter().zip(sockets);
    let opened = pairs.map(|(configured, socket)| Opened {
        address: configured.address,
        listener: Arc::clone(&socket.listener),
    });
    opened.collect()
}

fn bind_admin(
    config: &Config,
    inherited: &mut Option<&mut Predecessor>,
    bound: &mut Bound,
) -> Result<Option<TcpListener>, StartError> {
    let Some(admin) = &config.admin else {
        return Ok(None);
    };
    let key = "admin.address".to_owned();
    let (socket, address) = bind(key, Kind::Admin, admin.address, inherited)?;
    log::info!("admin on {address}");
    bound.admin = Some(address);
    Ok(Some(socket))
}

/// Takes over or binds, and tells the address that was really taken, port 0 resolved.
fn bind(
    key: String,
    kind: Kind,
    address: SocketAddr,
    inherited: &mut Option<&mut Predecessor>,
) -> Result<(TcpListener, SocketAddr), StartError> {
    let taken = inherited
        .as_mut()
        .and_then(|predecessor| predecessor.listener(kind, address));
    let socket = taken.map_or_else(|| listener::bind(address), Ok);
    let bound = socket.and_then(|socket| {
        let taken = socket.local_addr()?;
        Ok((socket, taken))
    });
    bound.map_err(|source| StartError::Bind {
        key,
        address,
        source,
    })
}

/// What answers this process's successor.
fn control(
    config: &Config,
    gateway: &Gateway,
    reloader: &Arc<Reloader>,
    revoker: &Arc<Revoker>,
    succession: &mut Succession,
    sockets: &[Socket],
    admin: Option<&TcpListener>,
) -> Result<Option<succession::Control>, StartError> {
    let Some(place) = &succession.place else {
        return Ok(None);
    };
    let taken = succession
        .predecessor
        .as_mut()
        .and_then(|predecessor| predecessor.control(place));
    let socket = match taken.map_or_else(|| place.bind(), Ok) {
        Ok(socket) => socket,
        Err(error) if place.is_default => {
            log::warn!("there can be no upgrade, set server.upgrade_socket: {error}");
            return Ok(None);
        }
        Err(error) => return Err(StartError::UpgradeSocket(error)),
    };
    log::info!("successors ask at {}", socket.path.display());
    let listeners = config.listeners.iter().zip(sockets);
    let listeners = listeners
        .map(|(configured, bound)| Offer::new(Kind::Listener, configured.address, &bound.socket));
    let admin = config.admin.as_ref().zip(admin);
    let admin =
        admin.map(|(configured, socket)| Offer::new(Kind::Admin, configured.address, socket));
    let offers = listeners
        .chain(admin)
        .collect::<Result<_, _>>()
        .map_err(StartError::Upgrade)?;
    let (live, lifecycle) = (Arc::clone(&gateway.live), Arc::clone(&gateway.lifecycle));
    let reloader = Arc::clone(reloader);
    let (own, last) = (Arc::clone(revoker), Arc::clone(revoker));
    Ok(Some(succession::Control::new(succession::Settings {
        socket,
        offers,
        program: Program::current().map_err(StartError::Upgrade)?,
        timeout: config.server.upgrade_timeout,
        state: Arc::new(move || Inheritance::of(&live.load(), &own).write()),
        last_state: Arc::new(move || Inheritance::of(&reloader.hand_over(), &last).write()),
        life: Box::new(move || lifecycle.state().as_str()),
    })))
}

fn open_access_log(
    config: &Config,
    metrics: &Metrics,
) -> Result<Option<Arc<AccessLog>>, StartError> {
    let Some(settings) = &config.access_log else {
        return Ok(None);
    };
    let log = AccessLog::start(settings, metrics.access_log_dropped().clone());
    log.map(|log| Some(Arc::new(log)))
        .map_err(|source| StartError::AccessLog {
            output: settings.output.clone(),
            source,
        })
}

/// One edge a worker: each has a connection pool of its own.
fn start_workers(
    config: &Config,
    gateway: &Gateway,
    sockets: Vec<Socket>,
    closing: &ShutdownWatch,
) -> Result<(), StartError> {
    let clients = Arc::<Clients>::default();
    let edges = (0..config.server.threads.get())
        .map(|_| Edge {
            handler: Gateway {
                pool: Arc::default(),
                ..gateway.clone()
            },
            live: Arc::clone(&gateway.live),
            clients: Arc::clone(&clients),
            overload: Arc::clone(&gateway.overload),
            refusals: Arc::new(gateway.clone()),
            lifecycle: Arc::clone(&gateway.lifecycle),
            closing: closing.clone(),
        })
        .collect();
    accept::start(sockets, edges, closing).map_err(StartError::Worker)
}

/// The Pingora server with what runs beside the workers.
///
/// The admin listener answers once the process is in charge, and is left to a successor when
/// `closing` turns true because there is one.
fn build_server(
    gateway: &Gateway,
    admin: Option<TcpListener>,
    build: Build,
    listeners: Vec<Arc<ListenerState>>,
    shared: Shared,
    in_charge: ShutdownWatch,
    closing: ShutdownWatch,
) -> Server {
    let conf = ServerConf {
        threads: 1,
        graceful_shutdown_timeout_seconds: Some(0),
        grace_period_seconds: Some(0),
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    if let Some(socket) = admin {
        let (metrics, lifecycle) = (&gateway.metrics, &gateway.lifecycle);
        let status = Status::new(
            build,
            gateway,
            listeners.clone(),
            Arc::clone(&shared.reloader),
        );
        let status = status.with_discovery(shared.discovery);
        let status = Arc::new(status.with_shared(shared.store, Arc::clone(&shared.revoker)));
        let (metrics, lifecycle) = (Arc::clone(metrics), Arc::clone(lifecycle));
        let (live, counted) = (Arc::clone(&gateway.live), Arc::clone(&metrics));
        let control = Some(Control::new(
            live,
            Arc::clone(&shared.reloader),
            shared.revoker,
            counted,
        ));
        let service = AdminService::new(socket, metrics, lifecycle, status, control);
        let service = service.once_in_charge(in_charge);
        server.add_service(service.left_to_successor(closing));
    }
    let certificates = Certificates::new(listeners);
    server.add_service(background_service("certificates", certificates));
    let (access_log, lifecycle) = (gateway.access_log.clone(), Arc::clone(&gateway.lifecycle));
    let watch = Watch::new(shared.reloader, access_log, lifecycle);
    server.add_service(background_service("reload", watch));
    let key_sets = KeySets::new(Arc::clone(&gateway.live), Arc::clone(&gateway.lifecycle));
    server.add_service(background_service("key sets", key_sets));
    let pressure = Pressure::new(Arc::clone(&gateway.live), Arc::clone(&gateway.overload));
    server.add_service(background_service("pressure", pressure));
    let probes = Probes::new(Arc::clone(&gateway.live), Arc::clone(&gateway.lifecycle));
    server.add_service(background_service("health checks", probes));
    let upkeep = Upkeep::new(Arc::clone(&gateway.live));
    server.add_service(background_service("upkeep of upstreams", upkeep));
    server
}

/// Ends the process without losing a request, and does what other signals ask for until then.
struct Drain {
    exit: Exit,
}

#[async_trait]
impl ShutdownSignalWatch for Drain {
    async fn recv(&self) -> ShutdownSignal {
        let cause = self.exit.cause().await;
        self.exit.drain(cause).await;
        ShutdownSignal::FastShutdown
    }
}

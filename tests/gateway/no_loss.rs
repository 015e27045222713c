//! Upgrades and reloads under a constant load of every kind at once: no request is lost.
//!
//! The numbers come from the environment, so that the suite has a short run and
//! `loadtest/no-loss.sh` the long one.

mod backend;
mod drive;
mod fleet;
mod http1;
mod http2;
mod load;
mod setup;
mod tally;
mod transfer;
mod websocket;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::support::command::binary;
use crate::support::{Finally, Gateway};
use drive::Driver;
use fleet::Fleet;
use load::{Endpoint, Load, Schedule};
use setup::{Backends, Setup};
use tally::Kind;

/// Clients that keep their connections, of each kind.
const CLIENTS: u32 = 4;

/// Seconds between the requests of those that are seldom used: below and above the time for which an
/// old process waits for a last request.
const SELDOM: [u64; 6] = [1, 2, 3, 4, 6, 8];

/// How long the load runs before anything is done to the gateway, and after.
const UNDISTURBED: Duration = Duration::from_secs(1);

/// More open files than this beyond the first process would be a leak: connections come and go.
const FILES_MARGIN: usize = 64;

/// What the environment asks for.
struct Wanted {
    upgrades: usize,
    reloads: usize,
    transfer: Duration,
    /// Requests a second of each kind of HTTP.
    rate: u32,
}

impl Wanted {
    fn from_environment() -> Self {
        Self {
            upgrades: number("NO_LOSS_UPGRADES", 3) as usize,
            reloads: number("NO_LOSS_RELOADS", 10) as usize,
            transfer: Duration::from_secs(number("NO_LOSS_TRANSFER_SECONDS", 4).into()),
            rate: number("NO_LOSS_RATE", 20).max(1),
        }
    }
}

fn number(name: &str, default: u32) -> u32 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name} is {text:?}, not a number")),
        Err(_) => default,
    }
}

#[test]
fn upgrades_and_reloads_lose_nothing() {
    let wanted = Wanted::from_environment();
    let (a, b) = (backend::work(), backend::work());
    let (socket, slow) = (backend::socket(), backend::slow(wanted.transfer));
    let backends = Backends {
        pair: [&a, &b],
        socket: &socket,
        slow: &slow,
    };
    let setup = Setup::new(&backends, wanted.transfer);
    // Outlives the first process, and sees that none of its successors does.
    let fleet = Fleet::of(&setup.config_file());
    let mut command = binary();
    command.arg("-c").arg(setup.config_file());
    let gateway = Gateway::launch(command, None);
    let load = Arc::new(Load::new());
    let _end = Finally(|| load.stop());
    let runtime = Runtime::new().expect("a runtime");
    let clients = start(&runtime, &load, &setup, &wanted);
    let socket_clients = start_sockets(&load, &setup, &wanted);

    std::thread::sleep(UNDISTURBED);
    let first = Fleet::usage(fleet.newest());
    let mut driver = Driver::new(&load, &setup, &fleet);
    driver.run(wanted.upgrades, wanted.reloads);
    std::thread::sleep(UNDISTURBED);
    let last = Fleet::usage(fleet.newest());
    load.stop();
    runtime.block_on(clients.join_all());
    for client in socket_clients {
        client.join().expect("a WebSocket client");
    }

    println!("\n{}{}", load.tally.render(), driver.summary());
    println!(
        "first process: {} KiB, {} files; last: {} KiB, {} files",
        first.0, first.1, last.0, last.1
    );
    end(&fleet, &setup);
    check_access_log(&setup);
    assert_eq!(load.tally.faults(), 0, "requests or connections were lost");
    assert!(
        load.tally.silent().is_empty(),
        "{:?} had no answer",
        load.tally.silent()
    );
    assert!(
        last.1 < first.1 + FILES_MARGIN,
        "open files grow: {first:?}, {last:?}"
    );
    drop(gateway);
}

/// Begins every kind of load but the WebSockets.
fn start(runtime: &Runtime, load: &Arc<Load>, setup: &Setup, wanted: &Wanted) -> JoinSet<()> {
    let plain = Endpoint::plain(setup.plain);
    let tls = Endpoint::tls(setup.tls, setup.certificate.clone());
    let mut tasks = JoinSet::new();
    let _entered = runtime.enter();
    let load = || Arc::clone(load);
    for index in 0..CLIENTS {
        let schedule = || Schedule::shared(wanted.rate, CLIENTS, index);
        tasks.spawn(http1::keep_alive(
            load(),
            plain.clone(),
            Kind::KeepAlive,
            schedule(),
        ));
        tasks.spawn(http1::keep_alive(
            load(),
            tls.clone(),
            Kind::TlsKeepAlive,
            schedule(),
        ));
        tasks.spawn(http2::streams(load(), tls.clone(), schedule()));
    }
    for seconds in SELDOM {
        let schedule = Schedule::every(Duration::from_secs(seconds));
        tasks.spawn(http1::keep_alive(
            load(),
            plain.clone(),
            Kind::SeldomUsed,
            schedule,
        ));
    }
    for (endpoint, kind) in [
        (&plain, Kind::NewConnection),
        (&tls, Kind::TlsNewConnection),
    ] {
        let schedule = Schedule::shared(wanted.rate, 1, 0);
        tasks.spawn(http1::new_connections(
            load(),
            endpoint.clone(),
            kind,
            schedule,
        ));
    }
    let transfers = [
        (&plain, Kind::Download),
        (&tls, Kind::TlsDownload),
        (&tls, Kind::Http2Download),
        (&plain, Kind::Upload),
    ];
    for (endpoint, kind) in transfers {
        tasks.spawn(transfer::transfers(
            load(),
            endpoint.clone(),
            kind,
            wanted.transfer,
        ));
    }
    tasks
}

fn start_sockets(
    load: &Arc<Load>,
    setup: &Setup,
    wanted: &Wanted,
) -> Vec<std::thread::JoinHandle<()>> {
    let interval = Duration::from_secs(1) * CLIENTS / wanted.rate;
    let address = setup.plain;
    (0..CLIENTS)
        .map(|_| {
            let load = Arc::clone(load);
            std::thread::spawn(move || websocket::echo(&load, address, interval))
        })
        .collect()
}

/// With no client left, the old processes must end by themselves, and the last one when it is told.
fn end(fleet: &Fleet, setup: &Setup) {
    let deadline = Instant::now() + setup.drain();
    while fleet.pids().len() > 1 {
        let left = fleet.pids();
        assert!(
            Instant::now() < deadline,
            "still running with nothing to do: {left:?}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    Fleet::signal("TERM", &fleet.pids());
    let deadline = Instant::now() + setup.drain();
    while let Some(pid) = fleet.pids().first() {
        assert!(Instant::now() < deadline, "{pid} does not end");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// All processes wrote to the same file: every line is whole, and none tells of a failure.
fn check_access_log(setup: &Setup) {
    let text = std::fs::read_to_string(setup.access_log()).expect("the access log");
    for line in text.lines() {
        let record: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line:?}"));
        let status = record["status_code"].as_u64().expect("a status");
        assert!(status < 500, "{line}");
    }
}

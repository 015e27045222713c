//! `--health-check`: asks the running gateway from beside it, for containers without a client.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use edge_gateway::config::{self, Config, ProcessEnv};
use edge_gateway::upgrade::alive;
use edge_gateway::upgrade::place::Place;

const TIMEOUT: Duration = Duration::from_secs(2);

/// How long the gateway may take to answer through its socket. Containers wait three seconds in all.
const ALIVE_TIMEOUT: Duration = Duration::from_millis(800);

/// Asks the gateway that runs this file: through the socket of upgrades, whatever has become of the
/// file since, or else over HTTP.
pub fn ask(path: &Path) -> Result<(), String> {
    let socket = config::upgrade_socket(path, &ProcessEnv);
    let place = Place::new(socket.as_deref(), path);
    if alive::ask(&place, ALIVE_TIMEOUT).is_ok() {
        return Ok(());
    }
    let loaded = config::load(path, &ProcessEnv).map_err(|problems| problems.to_string())?;
    ask_over_http(&loaded.config)
}

/// Asks `/health` of the gateway that runs this configuration.
fn ask_over_http(config: &Config) -> Result<(), String> {
    // A port chosen by the system is not in the file.
    let is_known = |address: &SocketAddr| address.port() != 0;
    let answering = config.listeners.iter().filter(|listener| {
        listener.health && listener.tls.is_none() && listener.proxy_protocol.is_empty()
    });
    let address = answering
        .map(|listener| listener.address)
        .chain(config.admin.as_ref().map(|admin| admin.address))
        .find(is_known)
        .ok_or("health check: no plain listener with a fixed port answers health checks")?;
    let address = reachable(address);
    let status = status_of(address).map_err(|error| format!("health check: {address}: {error}"))?;
    match status.as_str() {
        "200" => Ok(()),
        other => Err(format!("health check: {address}: answered {other}")),
    }
}

/// An address that listens everywhere is asked on the loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// The status of the answer, as it stands in its first line.
fn status_of(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(64 * 1024).read_to_end(&mut answer)?;
    let line = answer
        .split(|byte| *byte == b'\r')
        .next()
        .unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ');
    let status = words.nth(1).unwrap_or(b"nothing");
    Ok(String::from_utf8_lossy(status).into_owned())
}

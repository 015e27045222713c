//! How many connections one client may have.

use std::net::{IpAddr, Ipv4Addr};

use crate::support::client::format_request;
use crate::support::{Client, Gateway, Origin, eventually};

fn gateway(origin: &Origin, settings: &str) -> Gateway {
    let gateway = Gateway::start(&format!(
        "limits: {{ max_connections_per_client: 3 }}
{settings}
routes: [{{ name: all, upstream: 'http://{}' }}]",
        origin.address()
    ));
    // The connections that asked whether it is ready are gone.
    gateway.wait_metric("gateway_connections_active", &[("listener", "main")], 0.0);
    gateway
}

/// A connection from 127.0.0.`host`, if it is served.
fn served(gateway: &Gateway, host: u8) -> Option<Client> {
    let address = IpAddr::V4(Ipv4Addr::new(127, 0, 0, host));
    let mut client = Client::connect_from(address, gateway.addr());
    drop(client.try_send(format_request("GET", "/", &[], b"")));
    let response = client.try_response(true).ok()?;
    assert_eq!(response.status, 200);
    Some(client)
}

#[test]
fn a_client_with_too_many_connections_does_not_hinder_others() {
    let origin = Origin::echo();
    let gateway = gateway(&origin, "");
    let mut held: Vec<_> = (0..3).map(|_| served(&gateway, 2)).collect();
    assert!(held.iter().all(Option::is_some));
    for surplus in 1..=3 {
        assert!(served(&gateway, 2).is_none());
        let closed = [("listener", "main"), ("reason", "client_limit")];
        let so_far = f64::from(surplus);
        gateway.wait_metric("gateway_connections_closed_total", &closed, so_far);
    }
    assert!(served(&gateway, 3).is_some());
    held.pop();
    eventually("there is room again", || {
        held.push(served(&gateway, 2));
        held.last().is_some_and(Option::is_some)
    });
}

#[test]
fn trusted_proxies_have_many_clients() {
    let origin = Origin::echo();
    let gateway = gateway(&origin, "trusted_proxies: [127.0.0.2]");
    let held: Vec<_> = (0..10).map(|_| served(&gateway, 2)).collect();
    assert!(held.iter().all(Option::is_some));
}

#[test]
fn silent_connections_count_as_well() {
    let origin = Origin::echo();
    let gateway = gateway(&origin, "");
    let address = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
    let silent: Vec<_> = (0..3)
        .map(|_| Client::connect_from(address, gateway.addr()))
        .collect();
    gateway.wait_metric("gateway_connections_active", &[("listener", "main")], 3.0);
    assert!(served(&gateway, 2).is_none());
    drop(silent);
    eventually("there is room again", || served(&gateway, 2).is_some());
}

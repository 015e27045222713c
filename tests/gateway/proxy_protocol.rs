//! Clients behind a load balancer that names them by the PROXY protocol.

use std::net::{IpAddr, Ipv4Addr};

use crate::support::client::format_request;
use crate::support::command::{self, finish};
use crate::support::gateway::config_directory;
use crate::support::{Client, Gateway, Origin, eventually};

/// A gateway that believes the balancers at 127.0.0.1; everybody else is a stranger to it.
fn behind_a_balancer(origin: &Origin, settings: &str) -> Gateway {
    Gateway::start(&format!(
        "listeners:
  - {{ name: main, address: 127.0.0.1:0, proxy_protocol: {{ trusted: [127.0.0.1] }} }}
{settings}
routes: [{{ name: all, upstream: 'http://{}' }}]",
        origin.address()
    ))
}

const LINE: &str = "PROXY TCP4 192.0.2.7 198.51.100.1 4444 443\r\n";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A header of version 2 for 192.0.2.7:4444.
fn binary(command: u8) -> Vec<u8> {
    let addresses = [192, 0, 2, 7, 198, 51, 100, 1, 0x11, 0x5c, 0x01, 0xbb];
    let mut header = SIGNATURE.to_vec();
    header.extend([0x20 | command, 0x11, 0, 12]);
    header.extend(addresses);
    header
}

fn get(path: &str) -> Vec<u8> {
    format_request("GET", path, &[], b"")
}

#[track_caller]
fn assert_client(gateway: &Gateway, origin: &Origin, header: &[u8], client: &str) {
    let before = origin.requests();
    let mut connection = gateway.connect();
    connection.send([header, &get("/first")].concat());
    assert_eq!(connection.read_response().status, 200);
    // The header stands once, before all requests.
    assert_eq!(connection.get("/second").status, 200);
    for seen in &origin.seen()[before..] {
        assert_eq!(seen.header("x-forwarded-for"), Some(client));
    }
    let line = gateway.wait_access(|line| line["client_ip"] == client);
    assert_eq!(line["status_code"], 200);
}

#[test]
fn the_client_is_whom_the_balancer_names() {
    let origin = Origin::echo();
    let gateway = behind_a_balancer(&origin, "");
    assert_client(&gateway, &origin, LINE.as_bytes(), "192.0.2.7");
    assert_client(&gateway, &origin, &binary(1), "192.0.2.7");
    assert_client(
        &gateway,
        &origin,
        b"PROXY TCP6 2001:db8::7 2001:db8::1 4444 443\r\n",
        "2001:db8::7",
    );
    // The balancer's own health checks.
    assert_client(&gateway, &origin, &binary(0), "127.0.0.1");
    assert_client(&gateway, &origin, b"PROXY UNKNOWN\r\n", "127.0.0.1");
}

#[test]
fn a_header_may_come_byte_by_byte() {
    let origin = Origin::echo();
    let gateway = behind_a_balancer(&origin, "");
    for header in [LINE.as_bytes().to_vec(), binary(1)] {
        let mut client = gateway.connect();
        for byte in [header, get("/slow")].concat() {
            client.send([byte]);
        }
        assert_eq!(client.read_response().json()["target"], "/slow");
    }
}

#[test]
fn a_trusted_peer_without_a_good_header_is_closed() {
    let origin = Origin::echo();
    let gateway = behind_a_balancer(&origin, "");
    let mut unix = binary(1);
    unix[13] = 0x31;
    let beginnings = [
        get("/"),
        b"PROXY TCP4 192.0.2.7 198.51.100.1 4444\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.7 198.51.100.1 4444 443\n".to_vec(),
        [b"PROXY UNKNOWN ", &[b'x'; 200][..]].concat(),
        binary(7),
        unix,
        b"\x16\x03\x01\x02\x00".to_vec(),
    ];
    for (count, beginning) in beginnings.iter().enumerate() {
        let mut client = gateway.connect();
        drop(client.try_send([beginning.as_slice(), &get("/")].concat()));
        assert!(client.is_closed(), "{}", beginning.escape_ascii());
        let closed = [("listener", "main"), ("reason", "proxy_protocol")];
        let so_far = count as f64 + 1.0;
        gateway.wait_metric("gateway_connections_closed_total", &closed, so_far);
    }
    assert_eq!(origin.requests(), 0);
    gateway.wait_log(&["client::proxy_protocol", "peer=127"]);
}

#[test]
fn a_port_check_is_no_fault() {
    let origin = Origin::echo();
    let gateway = behind_a_balancer(&origin, "");
    drop(gateway.connect());
    gateway.wait_metric("gateway_connections_active", &[("listener", "main")], 0.0);
    assert_eq!(gateway.metric("gateway_connections_closed_total", &[]), 0.0);
}

#[test]
fn a_header_that_stops_is_not_waited_for() {
    let origin = Origin::echo();
    let gateway = behind_a_balancer(&origin, "limits: { request_header_timeout: 300ms }");
    for beginning in [&b""[..], b"PROXY TCP4 192", SIGNATURE] {
        let mut client = gateway.connect();
        client.send(beginning);
        assert!(client.is_closed(), "{}", beginning.escape_ascii());
    }
    let closed = [("listener", "main"), ("reason", "header_timeout")];
    gateway.wait_metric("gateway_connections_closed_total", &closed, 3.0);
}

#[test]
fn a_stranger_cannot_name_a_client() {
    let origin = Origin::echo();
    let gateway = behind_a_balancer(&origin, "");
    let stranger = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 9));
    for header in [LINE.as_bytes().to_vec(), binary(1), binary(0)] {
        let mut client = Client::connect_from(stranger, gateway.addr());
        drop(client.try_send([header, get("/")].concat()));
        client.read_response().assert_refusal(400, "bad_request");
    }
    assert_eq!(origin.requests(), 0);
    // Without a header it is a client like any other.
    let mut client = Client::connect_from(stranger, gateway.addr());
    assert_eq!(client.get("/").status, 200);
    let seen = origin.only_request();
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.9"));
}

#[test]
fn where_nobody_is_trusted_the_header_is_bad_http() {
    let origin = Origin::echo();
    let gateway = Gateway::in_front_of(&origin);
    for header in [LINE.as_bytes().to_vec(), binary(1)] {
        let mut client = gateway.connect();
        drop(client.try_send([header, get("/")].concat()));
        client.read_response().assert_refusal(400, "bad_request");
    }
    assert_eq!(origin.requests(), 0);
}

/// The balancer itself is trusted to name its client, and no more: whether that client's headers are
/// believed is decided by the client's own address.
#[test]
fn forwarding_headers_are_judged_by_the_named_client() {
    let origin = Origin::echo();
    let gateway = behind_a_balancer(&origin, "trusted_proxies: [127.0.0.1, 198.51.100.0/24]");
    for (client, forwarded) in [
        ("192.0.2.7", "192.0.2.7"),
        ("198.51.100.9", "203.0.113.5, 198.51.100.9"),
    ] {
        let mut connection = gateway.connect();
        connection.send(format!("PROXY TCP4 {client} 198.51.100.1 4444 443\r\n"));
        let claim = ["X-Forwarded-For: 203.0.113.5"];
        connection.send(format_request("GET", "/", &claim, b""));
        assert_eq!(connection.read_response().status, 200);
        let seen = origin.seen();
        let last = seen.last().expect("a request");
        assert_eq!(last.header("x-forwarded-for"), Some(forwarded));
    }
}

#[test]
fn the_limit_by_client_counts_the_named_one() {
    let origin = Origin::echo();
    let gateway = behind_a_balancer(&origin, "limits: { max_connections_per_client: 2 }");
    let connect = |client: &str| {
        let mut connection = gateway.connect();
        connection.send(format!("PROXY TCP4 {client} 198.51.100.1 4444 443\r\n"));
        drop(connection.try_send(get("/")));
        let answer = connection.try_response(true);
        answer
            .is_ok_and(|answer| answer.status == 200)
            .then_some(connection)
    };
    let held = [connect("192.0.2.7"), connect("192.0.2.7")];
    assert!(held.iter().all(Option::is_some));
    assert!(connect("192.0.2.7").is_none());
    assert!(connect("192.0.2.8").is_some());
    drop(held);
    eventually("there is room again", || connect("192.0.2.7").is_some());
}

#[test]
fn somebody_must_be_trusted() {
    for (written, expected) in [
        ("proxy_protocol: {}", "trusted"),
        ("proxy_protocol: { trusted: [] }", "at least one network"),
        (
            "proxy_protocol: { trusted: [everybody] }",
            "expected a network",
        ),
    ] {
        let yaml = format!(
            "listeners: [{{ address: '127.0.0.1:0', {written} }}]
routes: [{{ upstream: 'http://127.0.0.1:1' }}]"
        );
        let directory = config_directory(&yaml);
        let file = directory.path().join("gateway.yaml");
        let run = finish(command::binary().arg("-t").arg("-c").arg(file));
        assert_eq!(run.code, Some(1), "{written}");
        let output = run.output();
        assert!(output.contains("proxy_protocol"), "{output}");
        assert!(output.contains(expected), "{output}");
    }
}

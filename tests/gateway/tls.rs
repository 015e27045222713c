//! TLS towards clients: versions, certificates by name, protocols, and what goes wrong.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use crate::support::client::{get, request};
use crate::support::command::{binary, finish};
use crate::support::gateway::config_directory;
use crate::support::tls::{Authority, TlsClient};
use crate::support::wait::{DEADLINE, until};
use crate::support::{Client, Gateway, Origin, Script};

const FAILURES: &str = "gateway_tls_handshake_failures_total";
const CLOSED: &str = "gateway_connections_closed_total";

/// A gateway with one certificate, for `a.test` and 127.0.0.1, and these settings of `tls`.
fn simple(authority: &Authority, origin: &Origin, settings: &str) -> Gateway {
    authority.store("a", &["a.test", "127.0.0.1"]);
    Gateway::start(&authority.config(&["a"], settings, origin.address()))
}

#[test]
fn both_versions_are_spoken_and_the_backend_is_told() {
    let (authority, origin) = (Authority::new(), Origin::echo());
    let gateway = simple(&authority, &origin, "");
    for (setup, version) in [
        (authority.client().tls12(), "TLSv1.2"),
        (authority.client().tls13(), "TLSv1.3"),
    ] {
        let mut client = setup.connect(gateway.addr(), "a.test").unwrap();
        let response = client.get("a.test", &format!("/{version}"));
        assert_eq!(response.status, 200);
        let line = gateway.wait_access(|line| line["path"] == format!("/{version}"));
        assert_eq!(line["tls_version"], version);
        let labels = [("version", version), ("resumed", "false")];
        gateway.wait_metric("gateway_tls_handshakes_total", &labels, 1.0);
    }
    let seen = origin.seen();
    let schemes = seen.iter().map(|seen| seen.header("x-forwarded-proto"));
    assert!(schemes.eq([Some("https"); 2]), "{seen:?}");
}

#[test]
fn an_old_version_is_refused() {
    let (authority, origin) = (Authority::new(), Origin::echo());
    let gateway = simple(&authority, &origin, "      min_version: '1.3'");
    let refused = authority.client().tls12().connect(gateway.addr(), "a.test");
    let error = refused.err().unwrap().to_string();
    assert!(error.contains("ProtocolVersion"), "{error}");
    let labels = [("reason", "incompatible")];
    gateway.wait_metric(FAILURES, &labels, 1.0);
    gateway.wait_metric(CLOSED, &[("reason", "handshake_failed")], 1.0);
    let mut client = authority
        .client()
        .connect(gateway.addr(), "a.test")
        .unwrap();
    assert_eq!(client.get("a.test", "/").status, 200);
}

#[test]
fn the_certificate_is_chosen_by_name() {
    let (authority, origin) = (Authority::new(), Origin::echo());
    authority.store("default", &["default.test", "127.0.0.1"]);
    authority.store("wild", &["*.a.test"]);
    authority.store("exact", &["x.a.test"]);
    let names = ["default", "wild", "exact"];
    let gateway = Gateway::start(&authority.config(&names, "", origin.address()));
    let shown = |name: &str| {
        let config = authority.client().config();
        let client = TlsClient::connect(gateway.addr(), name, &config).unwrap();
        client.shown()
    };
    let of = |name: &str| {
        let text = std::fs::read_to_string(authority.folder().join(format!("{name}.crt")));
        use rustls::pki_types::pem::PemObject;
        let der = rustls::pki_types::CertificateDer::from_pem_slice(text.unwrap().as_bytes());
        der.unwrap().to_vec()
    };
    assert_eq!(shown("x.a.test"), of("exact"));
    assert_eq!(shown("X.A.test"), of("exact"));
    assert_eq!(shown("y.a.test"), of("wild"));
    // An address is no name to ask for.
    assert_eq!(shown("127.0.0.1"), of("default"));
    // One label alone: what is deeper gets the default, which is not for it.
    let deeper = authority.client().connect(gateway.addr(), "z.y.a.test");
    assert!(deeper.is_err());
    gateway.wait_metric(FAILURES, &[("reason", "client_alert")], 1.0);
}

#[test]
fn the_application_protocol_is_agreed_on_or_refused() {
    let (authority, origin) = (Authority::new(), Origin::echo());
    let gateway = simple(&authority, &origin, "      http2: false");
    let setup = authority.client().alpn(&["h2", "http/1.1"]);
    let mut client = setup.connect(gateway.addr(), "a.test").unwrap();
    assert_eq!(client.get("a.test", "/").status, 200);
    assert_eq!(client.session().alpn_protocol(), Some(&b"http/1.1"[..]));
    let none = authority.client().alpn(&["imap"]);
    let error = none.connect(gateway.addr(), "a.test").err().unwrap();
    assert!(
        error.to_string().contains("NoApplicationProtocol"),
        "{error}"
    );
    let labels = [("reason", "no_application_protocol")];
    gateway.wait_metric(FAILURES, &labels, 1.0);
}

#[test]
fn a_connection_is_kept_and_requests_may_come_together() {
    let (authority, origin) = (Authority::new(), Origin::echo());
    let gateway = simple(&authority, &origin, "");
    let mut client = authority
        .client()
        .connect(gateway.addr(), "a.test")
        .unwrap();
    for path in ["/1", "/2", "/3"] {
        assert_eq!(client.get("a.test", path).json()["target"], path);
    }
    let one = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n");
    client.send(one("/4") + &one("/5") + &one("/6"));
    for path in ["/4", "/5", "/6"] {
        assert_eq!(client.read_response().unwrap().json()["target"], path);
    }
    gateway.wait_metric("gateway_connections_total", &[], 1.0);
}

#[test]
fn large_bodies_pass_both_ways() {
    const SIZE: usize = 5 * 1024 * 1024;
    let authority = Authority::new();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n");
    let script = Script::new().read_body().send(head).fill(SIZE as u64);
    let origin = Origin::script(script);
    let gateway = simple(&authority, &origin, "");
    for setup in [authority.client().tls12(), authority.client().tls13()] {
        let mut client = setup.connect(gateway.addr(), "a.test").unwrap();
        client.send(format!(
            "POST /big HTTP/1.1\r\nHost: a.test\r\nContent-Length: {SIZE}\r\n\r\n"
        ));
        client.send(vec![b'y'; SIZE]);
        let response = client.read_response().unwrap();
        assert_eq!((response.status, response.body.len()), (200, SIZE));
        assert!(response.body.iter().all(|byte| *byte == b'x'));
    }
    let lengths: Vec<_> = origin.seen().iter().map(|seen| seen.body_length).collect();
    assert_eq!(lengths, [Some(SIZE as u64); 2]);
}

#[test]
fn the_end_is_announced() {
    let (authority, origin) = (Authority::new(), Origin::echo());
    let gateway = simple(&authority, &origin, "");
    let mut client = authority
        .client()
        .connect(gateway.addr(), "a.test")
        .unwrap();
    client.send("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n");
    assert_eq!(client.read_response().unwrap().status, 200);
    // Without close_notify this would be an error.
    assert_eq!(client.read_to_end().unwrap(), b"");
    let mut client = authority
        .client()
        .connect(gateway.addr(), "a.test")
        .unwrap();
    client.send("GET / HTTP/1.1\r\nHost: a b\r\n\r\n");
    assert_eq!(client.read_response().unwrap().status, 400);
    assert_eq!(client.read_to_end().unwrap(), b"");
}

#[test]
fn who_speaks_plain_http_is_told() {
    let (authority, origin) = (Authority::new(), Origin::echo());
    let gateway = simple(&authority, &origin, "");
    let response = get(gateway.addr(), "/");
    assert_eq!(response.status, 400);
    assert!(response.text().contains("TLS"), "{}", response.text());
    let body = vec![b'z'; 20_000];
    let response = request(gateway.addr(), "POST", "/", &[], &body);
    assert_eq!(response.status, 400);
    gateway.wait_metric(FAILURES, &[("reason", "plain_http")], 2.0);
    assert_eq!(origin.requests(), 0);
}

#[test]
fn garbage_and_silence_end_the_connection_alone() {
    let (authority, origin) = (Authority::new(), Origin::echo());
    authority.store("a", &["a.test"]);
    let config = authority.config(&["a"], "", origin.address());
    let gateway = Gateway::start(&format!("limits: {{ handshake_timeout: 300ms }}\n{config}"));
    let mut silent = Client::connect(gateway.addr());
    assert!(silent.is_closed());
    gateway.wait_metric(FAILURES, &[("reason", "timeout")], 1.0);
    gateway.wait_metric(CLOSED, &[("reason", "handshake_timeout")], 1.0);
    // The beginning of a ClientHello that never goes on.
    let mut slow = Client::connect(gateway.addr());
    let from = slow.writer().local_addr().unwrap();
    slow.send([22, 3, 1, 2, 0, 1, 0]);
    assert!(slow.is_closed());
    gateway.wait_metric(FAILURES, &[("reason", "timeout")], 2.0);
    let line = format!("listener=main peer={from} TLS handshake failed: timeout");
    gateway.wait_log(&[&line]);
    // On a busy machine a handshake may take longer than that.
    let client = until(|| authority.client().connect(gateway.addr(), "a.test").ok());
    assert_eq!(client.unwrap().get("a.test", "/").status, 200);
    let gateway = Gateway::start(&config);
    let mut garbage = TcpStream::connect(gateway.addr()).unwrap();
    garbage.set_read_timeout(Some(DEADLINE)).unwrap();
    garbage.write_all(&[22, 3, 1, 0, 4, 9, 9, 9, 9]).unwrap();
    garbage.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    garbage.read_to_end(&mut answer).unwrap();
    gateway.wait_metric(FAILURES, &[("reason", "malformed")], 1.0);
    drop(TcpStream::connect(gateway.addr()).unwrap());
    gateway.wait_metric(FAILURES, &[("reason", "disconnected")], 1.0);
    let mut client = authority
        .client()
        .connect(gateway.addr(), "a.test")
        .unwrap();
    assert_eq!(client.get("a.test", "/").status, 200);
}

#[test]
fn an_idle_connection_is_closed_in_time_and_told() {
    let (authority, origin) = (Authority::new(), Origin::echo());
    authority.store("a", &["a.test"]);
    let config = authority.config(&["a"], "", origin.address());
    let gateway = Gateway::start(&format!("limits: {{ keepalive_timeout: 200ms }}\n{config}"));
    let mut client = authority
        .client()
        .connect(gateway.addr(), "a.test")
        .unwrap();
    assert_eq!(client.get("a.test", "/").status, 200);
    assert_eq!(client.read_to_end().unwrap(), b"");
    gateway.wait_metric(CLOSED, &[("reason", "idle_timeout")], 1.0);
}

#[test]
fn browsers_are_told_to_stay_with_https() {
    let authority = Authority::new();
    let origin = Origin::script(Script::new().send(
        "HTTP/1.1 200 OK\r\nStrict-Transport-Security: max-age=1\r\nContent-Length: 0\r\n\r\n",
    ));
    let settings = "      hsts: { max_age: 365d, include_subdomains: true }";
    let gateway = simple(&authority, &origin, settings);
    let expected = Some("max-age=31536000; includeSubDomains");
    let mut client = authority
        .client()
        .connect(gateway.addr(), "a.test")
        .unwrap();
    let name = "strict-transport-security";
    assert_eq!(client.get("a.test", "/").header(name), expected);
    assert_eq!(client.get("a.test", "/health").header(name), expected);
    client.send("GET / HTTP/1.1\r\nHost: a.test\r\nExpect: x\r\n\r\n");
    let refused = client.read_response().unwrap();
    assert_eq!(refused.status, 417);
}

#[test]
fn plain_listeners_send_clients_to_https() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&format!(
        "listeners:
  - {{ name: main, address: 127.0.0.1:0, https_redirect: true }}
  - {{ name: other, address: 127.0.0.1:0, https_redirect: {{ port: 8443 }} }}
routes: [{{ name: all, match: {{ host: a.test }}, upstream: 'http://{}' }}]",
        origin.address()
    ));
    let mut client = gateway.connect();
    client.send("POST /a?b=c HTTP/1.1\r\nHost: b.test:8080\r\nContent-Length: 2\r\n\r\nhi");
    let response = client.read_response();
    assert_eq!(response.status, 308);
    assert_eq!(response.header("location"), Some("https://b.test/a?b=c"));
    assert_eq!(client.get("/health").status, 200);
    let response = get(gateway.listener("other"), "/x");
    assert_eq!(response.header("location"), Some("https://test:8443/x"));
    let response = gateway.connect().exchange("GET / HTTP/1.0\r\n\r\n");
    response.assert_refusal(400, "bad_request");
    assert_eq!(origin.requests(), 0);
}

#[test]
fn the_status_tells_when_certificates_end() {
    let (authority, origin) = (Authority::new(), Origin::echo());
    let expired = authority.issue_with(&["old.test"], |params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    });
    expired.store(authority.folder(), "old");
    let gateway = Gateway::start(&authority.config(&["old"], "", origin.address()));
    let labels = [("listener", "main"), ("server_name", "old.test")];
    let name = "gateway_tls_certificate_expiry_timestamp_seconds";
    gateway.wait_metric(name, &labels, 1_609_459_200.0);
    let status = get(gateway.admin(), "/status").json();
    let listed = &status["listeners"][0]["certificates"][0];
    assert_eq!(listed["server_name"], "old.test");
    assert_eq!(listed["expires"], "2021-01-01T00:00:00Z");
    gateway.wait_log(&["listeners[0].tls.certificates[0].cert: the certificate has expired"]);
}

/// What `-t` says about this configuration.
fn checked(yaml: &str) -> (Option<i32>, String) {
    let folder = config_directory(yaml);
    let file = folder.path().join("gateway.yaml");
    let run = finish(binary().arg("-t").arg("-c").arg(file));
    (run.code, run.output())
}

#[test]
fn files_that_cannot_be_used_are_told_with_their_lines() {
    let authority = Authority::new();
    let folder = authority.folder();
    authority.store("a", &["a.test"]);
    authority.store("b", &["b.test"]);
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
    let key = std::fs::read_to_string(folder.join("a.key")).unwrap();
    write("empty.pem", "");
    write("broken.key", &key.replace("\n-----END", "!!\n-----END"));
    let locked =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    write("locked.key", locked);
    write("tickets", "0011");
    let at = folder.display();
    let (code, output) = checked(&format!(
        "listeners:
  - address: 127.0.0.1:0
    tls:
      certificates:
        - {{ cert: {at}/none.crt, key: {at}/a.key }}
        - {{ cert: {at}/a.crt, key: {at}/b.key }}
        - {{ cert: {at}/empty.pem, key: {at}/a.crt }}
        - {{ cert: {at}/a.crt, key: {at}/broken.key }}
        - {{ cert: {at}/a.crt, key: {at}/locked.key }}
        - cert: {at}/a.crt
          key: {at}/a.key
          client_auth: {{ mode: required, ca: {at}/a.key }}
      session_tickets: {{ file: {at}/tickets }}
routes: [{{ respond: {{}} }}]"
    ));
    assert_eq!(code, Some(1), "{output}");
    for (line, key, what) in [
        (5, "certificates[0].cert", "cannot be read: No such file"),
        (
            6,
            "certificates[1].key",
            "does not belong to the certificate",
        ),
        (7, "certificates[2].cert", "holds no certificate"),
        (7, "certificates[2].key", "holds no private key"),
        (8, "certificates[3].key", "holds a damaged private key"),
        (9, "certificates[4].key", "holds an encrypted private key"),
        (12, "certificates[5].client_auth.ca", "holds no certificate"),
        (13, "session_tickets.file", "holds no key in line 1"),
    ] {
        let found = output.lines().any(|found| {
            found.contains(&format!(":{line}: listeners[0].tls.{key}: ")) && found.contains(what)
        });
        assert!(found, "{line} {key} {what} in\n{output}");
    }
    assert_eq!(output.trim().lines().count(), 8, "{output}");
    let secret = key.lines().nth(1).unwrap();
    assert!(!output.contains(&secret[..20]), "{output}");
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    let (code, output) = checked(
        "listeners:
  - address: 127.0.0.1:0
    https_redirect: true
    tls:
      certificates: []
      min_version: 1.1
      client_auth: { mode: required }
routes: [{ respond: {} }]",
    );
    assert_eq!(code, Some(1));
    for what in [
        "listeners[0].https_redirect: stands beside `tls`",
        "listeners[0].tls.certificates: is empty",
        "listeners[0].tls.min_version: `1.1` is none of the choices",
        "listeners[0].tls.client_auth.ca: is missing",
    ] {
        assert!(output.contains(what), "{what} in\n{output}");
    }
}

#[test]
fn a_slow_handshake_does_not_hold_up_others() {
    let (authority, origin) = (Authority::new(), Origin::echo());
    authority.store("a", &["a.test"]);
    let config = authority.config(&["a"], "", origin.address());
    let gateway = Gateway::start(&format!("limits: {{ handshake_timeout: 1m }}\n{config}"));
    let held: Vec<_> = (0..100)
        .map(|_| {
            let mut stream = TcpStream::connect(gateway.addr()).unwrap();
            stream.write_all(&[22, 3, 1]).unwrap();
            stream
        })
        .collect();
    let started = std::time::Instant::now();
    let mut client = authority
        .client()
        .connect(gateway.addr(), "a.test")
        .unwrap();
    assert_eq!(client.get("a.test", "/").status, 200);
    assert!(started.elapsed() < Duration::from_secs(20));
    drop(held);
}

//! Client certificates: asked for by listener and by name, and known to routes, headers and logs.

use crate::support::tls::{Authority, Setup, TlsClient};
use crate::support::{Gateway, Origin};

const FAILURES: &str = "gateway_tls_handshake_failures_total";

/// `open.test` asks for nothing, `closed.test` for a certificate of this authority.
fn two_sites(authority: &Authority, origin: &Origin) -> Gateway {
    authority.store("open", &["open.test"]);
    authority.store("closed", &["closed.test"]);
    let (at, backend) = (authority.folder().display(), origin.address());
    Gateway::start(&format!(
        "listeners:
  - name: main
    address: 127.0.0.1:0
    tls:
      certificates:
        - {{ cert: {at}/open.crt, key: {at}/open.key }}
        - cert: {at}/closed.crt
          key: {at}/closed.key
          client_auth: {{ mode: required, ca: {at}/ca.pem }}
routes: [{{ name: all, upstream: 'http://{backend}' }}]"
    ))
}

/// The error of a connection that the gateway ends because of the client's certificate. In TLS 1.3
/// the client learns of it with the first answer.
fn refusal(setup: &Setup, gateway: &Gateway, name: &str) -> String {
    let mut client = match setup.connect(gateway.addr(), name) {
        Ok(client) => client,
        Err(error) => return error.to_string(),
    };
    client.send(format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n"));
    client.read_response().unwrap_err().to_string()
}

#[test]
fn a_required_certificate_must_be_shown_and_be_valid() {
    let (authority, origin) = (Authority::new(), Origin::echo());
    authority.store("a", &["a.test"]);
    let at = authority.folder().display();
    let settings = format!("      client_auth: {{ mode: required, ca: {at}/ca.pem }}");
    let gateway = Gateway::start(&authority.config(&["a"], &settings, origin.address()));
    let stranger = Authority::new().issue_client("stranger");
    for setup in [authority.client().tls12(), authority.client().tls13()] {
        let error = refusal(&setup, &gateway, "a.test");
        assert!(
            error.contains("CertificateRequired") || error.contains("HandshakeFailure"),
            "{error}"
        );
        let error = refusal(&setup.clone().showing(&stranger), &gateway, "a.test");
        assert!(error.contains("alert"), "{error}");
        let own = authority.issue_client("app");
        let setup = setup.showing(&own);
        let config = setup.config();
        for resumed in [false, true] {
            let mut client = TlsClient::connect(gateway.addr(), "a.test", &config).unwrap();
            assert_eq!(client.get("a.test", &format!("/{resumed}")).status, 200);
            assert_eq!(client.is_resumed(), resumed);
            // A session that is taken up again keeps its certificate.
            let line = gateway.wait_access(|line| line["path"] == format!("/{resumed}"));
            assert_eq!(line["client_cert_subject"], "CN=app");
        }
    }
    let reason = |reason| [("reason", reason)];
    gateway.wait_metric(FAILURES, &reason("client_certificate_missing"), 2.0);
    gateway.wait_metric(FAILURES, &reason("client_certificate_refused"), 2.0);
    assert_eq!(origin.requests(), 4);
}

#[test]
fn an_optional_certificate_decides_the_route_and_the_headers() {
    let (authority, origin) = (Authority::new(), Origin::echo());
    authority.store("a", &["a.test"]);
    let (at, backend) = (authority.folder().display(), origin.address());
    let gateway = Gateway::start(&format!(
        "listeners:
  - name: main
    address: 127.0.0.1:0
    tls:
      certificates: [{{ cert: {at}/a.crt, key: {at}/a.key }}]
      client_auth: {{ mode: optional, ca: {at}/ca.pem }}
routes:
  - name: app
    match: {{ client_cert: {{ subject: '(^|,)CN=app(,|$)' }} }}
    upstream: 'http://{backend}'
    headers: {{ request: {{ set: {{ X-Client: '{{client_cert_subject}} {{tls_version}}' }} }} }}
  - name: known
    match: {{ client_cert: {{ present: true }} }}
    respond: {{ body: known }}
  - name: unknown
    respond: {{ status: 403, body: unknown }}"
    ));
    let setup = authority.client().tls13();
    let mut client = setup.connect(gateway.addr(), "a.test").unwrap();
    assert_eq!(client.get("a.test", "/").text(), "unknown");
    let other = authority.issue_client("other, CN=app");
    let mut client = setup
        .clone()
        .showing(&other)
        .connect(gateway.addr(), "a.test")
        .unwrap();
    assert_eq!(client.get("a.test", "/").text(), "known");
    let app = authority.issue_client("app");
    let mut client = setup
        .showing(&app)
        .connect(gateway.addr(), "a.test")
        .unwrap();
    client.send("GET / HTTP/1.1\r\nHost: a.test\r\nX-Client: CN=root\r\n\r\n");
    assert_eq!(client.read_response().unwrap().status, 200);
    let seen = origin.only_request();
    assert_eq!(seen.header("x-client"), Some("CN=app TLSv1.3"));
}

#[test]
fn the_requirement_of_a_name_cannot_be_gone_round_by_the_host() {
    let (authority, origin) = (Authority::new(), Origin::echo());
    let gateway = two_sites(&authority, &origin);
    let setup = authority.client();
    let mut client = setup.connect(gateway.addr(), "open.test").unwrap();
    assert_eq!(client.get("open.test", "/").status, 200);
    for host in ["closed.test", "CLOSED.test.:443", "closed.test:1"] {
        let refused = client.get(host, "/");
        refused.assert_refusal(421, "misdirected_request");
    }
    client.send("GET http://closed.test/ HTTP/1.1\r\nHost: closed.test\r\n\r\n");
    assert_eq!(client.read_response().unwrap().status, 421);
    // The connection goes on, for what it was made for.
    assert_eq!(client.get("open.test", "/").status, 200);
    assert_eq!(client.get("unknown.test", "/").status, 200);
    assert_eq!(origin.requests(), 3);
    let error = refusal(&setup, &gateway, "closed.test");
    assert!(error.contains("alert"), "{error}");
    let setup = setup.showing(&authority.issue_client("app"));
    let mut client = setup.connect(gateway.addr(), "closed.test").unwrap();
    assert_eq!(client.get("closed.test", "/").status, 200);
    assert_eq!(client.get("open.test", "/").status, 421);
}

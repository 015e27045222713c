//! TLS towards backends: whom the gateway trusts, what it shows, what it says of failures.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::support::command::{binary, finish};
use crate::support::gateway::config_directory;
use crate::support::{Act, Authority, Gateway, ModernOrigin, Origin, eventually};

/// An authority whose certificate lies in `ca.pem`, in a folder for more.
struct Trust {
    authority: Authority,
    folder: TempDir,
}

impl Trust {
    fn new() -> Self {
        let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
        std::fs::write(folder.path().join("ca.pem"), &authority.pem).unwrap();
        Self { authority, folder }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// A backend with a certificate for these names.
    fn origin(&self, names: &[&str], alpn: &[&str]) -> ModernOrigin {
        ModernOrigin::tls(self.authority.issue(names).server(alpn), |_| Act::Describe)
    }

    /// A gateway in front of it that trusts the authority; with these further settings of `tls`.
    fn gateway(&self, origin: &ModernOrigin, tls: &str, settings: &str) -> Gateway {
        let ca = self.path("ca.pem");
        Gateway::with_upstream(
            &[origin.address()],
            &format!("    timeouts: {{ connect: 5s }}\n    tls: {{ ca: '{ca}'{tls} }}\n{settings}"),
        )
    }
}

/// The reason of the only failure is `tls`, and the log says this of it.
#[track_caller]
fn assert_refuses(gateway: &Gateway, cause: &str) {
    gateway
        .connect()
        .get("/")
        .assert_refusal(502, "bad_gateway");
    let line = gateway.wait_access(|line| line["status_code"] == 502);
    assert_eq!(line["error_type"], "tls", "{line}");
    gateway.wait_metric("gateway_backend_failures_total", &[("reason", "tls")], 1.0);
    gateway.wait_log(&["TLS: ", cause]);
}

/// Makes a file the system's authorities.
fn trusts(command: &mut Command, file: &str) {
    command
        .env_remove("SSL_CERT_DIR")
        .env("SSL_CERT_FILE", file);
}

const ONCE: &str = "    retries: { attempts: 0 }\n";

#[test]
fn a_backend_is_reached_under_its_own_address_or_another_name() {
    let trust = Trust::new();
    let origin = trust.origin(&["127.0.0.1", "users.internal"], &[]);
    let by_address = trust.gateway(&origin, "", "");
    let answer = by_address.connect().get("/a?b").json();
    assert_eq!(answer["target"], "/a?b");
    assert_eq!(answer["protocol"], "http/1.1");
    // An address is verified, but no server name (RFC 6066 section 3).
    assert!(answer["server_name"].is_null());
    let by_name = trust.gateway(&origin, ", server_name: users.internal", "");
    assert_eq!(
        by_name.connect().get("/").json()["server_name"],
        "users.internal"
    );
}

#[test]
fn connections_are_kept_and_never_shared_with_an_upstream_of_other_trust() {
    let trust = Trust::new();
    let origin = trust.origin(&["127.0.0.1"], &[]);
    let other = Trust::new();
    let gateway = Gateway::start(&format!(
        "server: {{ threads: 1 }}\nupstreams:\n\
         \x20 good: {{ backends: ['{address}'], timeouts: {{ connect: 5s }}, tls: {{ ca: '{}' }} }}\n\
         \x20 bad: {{ backends: ['{address}'], timeouts: {{ connect: 5s }}, tls: {{ ca: '{}' }} }}\n\
         routes:\n\
         \x20 - {{ match: {{ path: /good }}, upstream: good }}\n\
         \x20 - {{ match: {{ path: /bad }}, upstream: bad, retries: {{ attempts: 0 }} }}\n",
        trust.path("ca.pem"),
        other.path("ca.pem"),
        address = origin.address(),
    ));
    let mut client = gateway.connect();
    for _ in 0..5 {
        assert_eq!(client.get("/good").status, 200);
    }
    assert_eq!(origin.connections(), 1);
    client.get("/bad").assert_refusal(502, "bad_gateway");
    assert_eq!(client.get("/good").status, 200);
    assert_eq!(origin.seen().len(), 6);
}

#[test]
fn who_is_vouched_for_by_somebody_else_gets_no_request() {
    let trust = Trust::new();
    let stranger = Trust::new().origin(&["127.0.0.1"], &[]);
    let gateway = trust.gateway(&stranger, "", ONCE);
    assert_refuses(&gateway, "invalid peer certificate");
    assert!(stranger.seen().is_empty());
}

#[test]
fn who_has_another_name_gets_no_request() {
    let trust = Trust::new();
    let origin = trust.origin(&["users.internal"], &[]);
    assert_refuses(&trust.gateway(&origin, "", ONCE), "not valid for name");
    let gateway = trust.gateway(&origin, ", server_name: other.internal", ONCE);
    assert_refuses(&gateway, "not valid for name");
    assert!(origin.seen().is_empty());
}

#[test]
fn who_is_expired_gets_no_request() {
    let trust = Trust::new();
    let expired = trust.authority.issue_expired(&["127.0.0.1"]);
    let origin = ModernOrigin::tls(expired.server(&[]), |_| Act::Describe);
    assert_refuses(&trust.gateway(&origin, "", ONCE), "expired");
    assert!(origin.seen().is_empty());
}

#[test]
fn a_plain_backend_gets_no_request_and_is_a_failed_handshake() {
    let trust = Trust::new();
    let plain = Origin::conversation(|mut stream| {
        drop(stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"));
    });
    let ca = trust.path("ca.pem");
    let gateway = Gateway::with_upstream(
        &[plain.address()],
        &format!("    timeouts: {{ connect: 5s }}\n    tls: {{ ca: '{ca}' }}\n{ONCE}"),
    );
    assert_refuses(&gateway, "TLS");
}

#[test]
fn verification_is_switched_off_only_in_so_many_words() {
    let trust = Trust::new();
    let origin = Trust::new().origin(&["somebody.else"], &[]);
    let gateway = Gateway::start_with(
        &format!(
            "upstreams: {{ u: {{ backends: ['{}'], tls: {{ verify: false, server_name: a.test }} }} }}\n\
             routes: [{{ upstream: u }}]\n",
            origin.address()
        ),
        // Not even the system has an authority.
        |command| {
            trusts(command, &trust.path("nothing"));
        },
    );
    let answer = gateway.connect().get("/").json();
    assert_eq!(answer["server_name"], "a.test");
    gateway.wait_log(&["upstreams.u.tls: `verify` is false"]);
}

#[test]
fn the_gateway_shows_its_certificate_where_it_has_one() {
    let trust = Trust::new();
    trust
        .authority
        .issue_client("gateway")
        .write(trust.folder.path(), "client");
    let server = trust.authority.issue(&["127.0.0.1"]);
    let config = server.server_for(Some(&trust.authority), &[]);
    let origin = ModernOrigin::tls(config, |_| Act::Describe);
    let (cert, key) = (trust.path("client.crt"), trust.path("client.key"));
    let known = trust.gateway(
        &origin,
        &format!(", client_cert: '{cert}', client_key: '{key}'"),
        "",
    );
    assert_eq!(known.connect().get("/").json()["certificates"], 1);
    let unknown = trust.gateway(&origin, "", ONCE);
    unknown
        .connect()
        .get("/")
        .assert_refusal(502, "bad_gateway");
    let line = unknown.wait_access(|line| line["status_code"] == 502);
    assert_eq!(line["error_type"], "tls", "{line}");
    assert_eq!(origin.seen().len(), 1);
}

#[test]
fn a_url_is_enough_and_the_systems_authorities_decide() {
    let trust = Trust::new();
    let origin = trust.origin(&["127.0.0.1"], &[]);
    let yaml = format!("routes: [{{ upstream: 'https://{}' }}]\n", origin.address());
    let gateway = Gateway::start_with(&yaml, |command| {
        trusts(command, &trust.path("ca.pem"));
    });
    assert_eq!(gateway.connect().get("/").status, 200);
    gateway.wait_metric(
        "gateway_backend_requests_total",
        &[("backend_service", &format!("https://{}", origin.address()))],
        1.0,
    );
}

#[test]
fn a_system_without_authorities_is_a_problem_only_of_who_needs_them() {
    let folder = config_directory("routes: [{ upstream: 'https://127.0.0.1:1' }]\n");
    let check = |folder: &Path| {
        let mut command = binary();
        trusts(&mut command, "/nowhere/ca.pem");
        finish(command.args(["-t", "-c"]).arg(folder.join("gateway.yaml")))
    };
    let run = check(folder.path());
    assert_eq!(run.code, Some(1));
    let output = run.output();
    assert!(
        output.contains("gateway.yaml:1: routes[0].upstream.tls: needs the authorities"),
        "{output}"
    );
    let origin = Origin::echo();
    let yaml = format!("routes: [{{ upstream: 'http://{}' }}]\n", origin.address());
    let plain = Gateway::start_with(&yaml, |command| {
        trusts(command, "/nowhere/ca.pem");
    });
    assert_eq!(plain.connect().get("/").status, 200);
}

#[test]
fn files_that_are_none_are_problems_of_the_configuration() {
    let trust = Trust::new();
    let (one, other) = (trust.authority.issue(&["a"]), trust.authority.issue(&["b"]));
    one.write(trust.folder.path(), "one");
    other.write(trust.folder.path(), "other");
    std::fs::write(
        trust.folder.path().join("broken.pem"),
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    )
    .unwrap();
    let problem = |tls: &str| {
        let yaml = format!(
            "upstreams:\n  u:\n    backends: ['127.0.0.1:1']\n    tls:\n      {tls}\nroutes: [{{ upstream: u }}]\n"
        );
        std::fs::write(trust.folder.path().join("g.yaml"), yaml).unwrap();
        let file = trust.folder.path().join("g.yaml");
        let run = finish(binary().args(["-t", "-c"]).arg(file));
        assert_eq!(run.code, Some(1), "{tls}: {}", run.output());
        run.output()
    };
    let cases = [
        (
            "{ ca: nothing.pem }",
            "g.yaml:5: upstreams.u.tls.ca: `nothing.pem`: No such file",
        ),
        (
            "{ ca: one.key }",
            "tls.ca: `one.key` has no certificate in it",
        ),
        (
            "{ ca: broken.pem }",
            "tls.ca: `broken.pem` has a certificate that is damaged",
        ),
        (
            "{ ca: ca.pem, client_cert: one.crt }",
            "tls.client_cert: stands alone",
        ),
        (
            "{ ca: ca.pem, client_key: one.key }",
            "tls.client_key: stands alone",
        ),
        (
            "{ ca: ca.pem, client_cert: one.crt, client_key: other.key }",
            "tls.client_key: `other.key`: is not the key of the certificate",
        ),
        (
            "{ ca: ca.pem, client_cert: one.crt, client_key: one.crt }",
            "tls.client_key: `one.crt` has no private key in it",
        ),
        (
            "{ ca: ca.pem, server_name: 'a b' }",
            "tls.server_name: `a b` is no name",
        ),
        (
            "{ ca: ca.pem, server_name: '' }",
            "tls.server_name: `` is no name",
        ),
        ("{ ca: ca.pem, server_nam: a }", "server_name"),
    ];
    for (tls, expected) in cases {
        let output = problem(tls);
        assert!(output.contains(expected), "{tls}: {output}");
    }
}

#[test]
fn probes_go_the_same_way_as_requests() {
    const PROBED: &str = "    health_check: { path: /health, interval: 100ms, timeout: 100ms, \
                          unhealthy_after: 1, healthy_after: 1 }";
    const CONNECTED: &str = "    health_check: { interval: 100ms, timeout: 100ms, \
                             unhealthy_after: 1, healthy_after: 1 }";
    let trust = Trust::new();
    let origin = trust.origin(&["127.0.0.1"], &["h2", "http/1.1"]);
    let stranger = Trust::new().origin(&["127.0.0.1"], &["h2", "http/1.1"]);
    let success = [("result", "success")];
    for protocol in ["http1", "http2", "auto"] {
        for probe in [PROBED, CONNECTED] {
            let settings = format!("    protocol: {protocol}\n{probe}");
            let gateway = trust.gateway(&origin, "", &settings);
            eventually("a good probe", || {
                gateway.metric("gateway_backend_probes_total", &success) >= 1.0
            });
            let gateway = trust.gateway(&stranger, "", &settings);
            gateway.wait_metric("gateway_backend_up", &[], 0.0);
            assert_eq!(
                gateway.metric("gateway_backend_probes_total", &success),
                0.0
            );
        }
    }
    assert!(stranger.seen().is_empty());
    let seen = origin.seen();
    assert!(
        seen.iter()
            .all(|asked| asked.headers["user-agent"] == "gateway-health-check")
    );
    assert!(seen.iter().any(|asked| asked.protocol == "h2"));
    assert!(seen.iter().any(|asked| asked.protocol == "http/1.1"));
}

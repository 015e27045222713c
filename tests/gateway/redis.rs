//! The connection to the shared store: what is known of it, what breaks it, and what is not shown.

use std::io::Write;
use std::net::TcpListener;

use crate::support::command::{binary, finish};
use crate::support::redis::TLS_PORT;
use crate::support::{Authority, DeadPort, Gateway, Redis, eventually};

const ROUTES: &str = "routes: [{ name: a, respond: {} }]";

fn with_redis(settings: &str) -> String {
    format!("redis: {{ {settings} }}\n{ROUTES}")
}

fn start(settings: &str) -> Gateway {
    Gateway::start(&with_redis(settings))
}

fn is_up(gateway: &Gateway) -> bool {
    gateway.status()["redis"]["state"] == "up"
}

fn errors(gateway: &Gateway, kind: &str) -> f64 {
    gateway.metric("gateway_redis_errors_total", &[("kind", kind)])
}

#[test]
fn nothing_is_said_of_a_store_that_is_not_configured() {
    let gateway = Gateway::start(ROUTES);
    assert!(gateway.status()["redis"].is_null());
    assert!(!gateway.metrics().contains("_redis_"));
}

#[test]
fn connections_are_kept_and_made_again_when_the_server_is_back() {
    let mut redis = Redis::start();
    let gateway = start(&format!("url: '{}', pool_size: 3", redis.url()));
    let connections = |count: u64| gateway.status()["redis"]["connections"] == count;
    eventually("all connections are there", || connections(3));
    let status = gateway.status();
    assert_eq!(status["redis"]["address"], redis.address().to_string());
    assert_eq!(status["redis"]["pool_size"], 3);
    gateway.wait_metric("gateway_redis_connections", &[], 3.0);
    redis.stop();
    eventually("they are gone", || connections(0));
    eventually("it is down", || {
        gateway.status()["redis"]["state"] == "down"
    });
    eventually("it is counted", || errors(&gateway, "connect") > 0.0);
    redis.start_again();
    eventually("they are back", || connections(3));
    let asked = gateway.metric(
        "gateway_redis_command_duration_seconds_count",
        &[("kind", "ping")],
    );
    assert!(asked >= 6.0, "{asked}");
    gateway.wait_log(&["redis: connected to"]);
    gateway.wait_log(&["redis error at"]);
}

#[test]
fn a_server_that_is_away_keeps_nobody_waiting_and_fills_no_log() {
    let port = DeadPort::refusing();
    let gateway = start(&format!("url: 'redis://{}'", port.address()));
    assert_eq!(crate::support::client::get(gateway.addr(), "/").status, 200);
    eventually("it is tried again and again", || {
        errors(&gateway, "connect") >= 20.0
    });
    let lines = gateway.log_lines();
    let told = lines.iter().filter(|line| line.contains("redis error"));
    assert!(told.count() <= 3, "{lines:#?}");
    assert_eq!(gateway.status()["redis"]["last_failure"]["kind"], "connect");
}

#[test]
fn a_server_that_does_not_answer_is_a_timeout() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let gateway = start(&format!("url: 'redis://{address}', connect_timeout: 50ms"));
    eventually("it is counted", || errors(&gateway, "timeout") > 1.0);
    assert!(!is_up(&gateway));
}

#[test]
fn a_server_that_answers_nonsense_is_not_believed() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in server.incoming().flatten() {
            let mut stream = stream;
            drop(stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n"));
        }
    });
    let gateway = start(&format!("url: 'redis://{address}'"));
    eventually("it is counted", || {
        errors(&gateway, "protocol") + errors(&gateway, "io") > 1.0
    });
    assert!(!is_up(&gateway));
}

#[test]
fn the_password_is_used_and_never_shown() {
    let redis = Redis::with(&["--requirepass", "hunter2-redis"]);
    let url = |password: &str| format!("redis://:{password}@{}/2", redis.address());
    let launch = |password: &str| {
        Gateway::start_with(&with_redis("url: '${REDIS_URL}'"), |command| {
            command
                .env("REDIS_URL", url(password))
                .env("RUST_LOG", "debug");
        })
    };
    let good = launch("hunter2-redis");
    eventually("it is let in", || is_up(&good));
    let bad = launch("hunter2-wrong");
    eventually("it is not", || errors(&bad, "auth") > 0.0);
    for gateway in [&good, &bad] {
        let texts = [
            gateway.log_lines().join("\n"),
            gateway.status().to_string(),
            gateway.metrics(),
        ];
        for text in texts {
            assert!(!text.contains("hunter2"), "{text}");
        }
    }
    bad.wait_log(&["redis error", "auth"]);
}

#[test]
fn the_file_is_checked_without_asking_the_server_or_a_name_server() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let check = |settings: &str| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gateway.yaml");
        std::fs::write(&path, with_redis(settings)).unwrap();
        finish(binary().arg("-t").arg("-c").arg(path))
    };
    let good = check(&format!("url: 'redis://user:secret@{address}'"));
    assert_eq!(good.code, Some(0), "{}", good.output());
    assert!(listener.accept().is_err(), "it was asked");
    for settings in [
        "url: 'redis://no-such-host.invalid'",
        "cluster: { nodes: [no-such-host.invalid] }, password: p",
        "sentinel: { master: m, nodes: ['[::1]:1'], password: q }, username: u, password: p, database: 3",
    ] {
        let named = check(settings);
        assert_eq!(named.code, Some(0), "{settings}: {}", named.output());
    }
    for (settings, expected) in [
        ("url: 'http://hunter2@host'", "redis.url: "),
        ("url: 'redis://user:hunter2@host?x=1'", "redis.url: "),
        (
            "url: 'redis://:hunter2@host', ca: missing.pem",
            "redis.ca: ",
        ),
        (
            "url: 'rediss://:hunter2@host', ca: missing.pem",
            "missing.pem",
        ),
        (
            "url: 'rediss://:hunter2@host', client_cert: a.pem",
            "client_key",
        ),
        (
            "url: 'redis://:hunter2@host', pool_size: 0",
            "redis.pool_size: ",
        ),
        (
            "url: 'redis://:hunter2@host', pool: 1",
            "redis.pool: unknown key",
        ),
        ("pool_size: 1", "redis: has no `url`"),
        (
            "url: 'redis://h', cluster: { nodes: [h] }",
            "redis: is in several places",
        ),
        (
            "url: 'redis://h', password: hunter2",
            "redis.password: needs",
        ),
        (
            "url: 'redis://h', database: 1, tls: true",
            "redis.tls: needs",
        ),
        (
            "cluster: { nodes: [] }",
            "redis.cluster.nodes: has 0 entries",
        ),
        (
            "cluster: { nodes: [a, 'a:6379'] }",
            "redis.cluster.nodes[1]: ",
        ),
        ("cluster: { nodes: [a/b] }", "redis.cluster.nodes[0]: "),
        ("cluster: { nodes: [a] }, database: 1", "redis.database: "),
        (
            "cluster: { nodes: [a] }, username: u",
            "redis.username: needs",
        ),
        ("cluster: { nodes: [a] }, ca: b.pem", "redis.ca: needs TLS"),
        (
            "cluster: { nodes: [a..b] }, tls: true, password: hunter2",
            "redis.cluster.nodes[0]: ",
        ),
        ("sentinel: { nodes: [a] }", "master"),
        (
            "sentinel: { master: '', nodes: [a] }",
            "redis.sentinel.master: ",
        ),
        (
            "sentinel: { master: m, nodes: ['a:b'], password: hunter2 }",
            "redis.sentinel.nodes[0]: ",
        ),
        (
            "sentinel: { master: m, nodes: [a], tls: true }, ca: missing.pem",
            "missing.pem",
        ),
    ] {
        let bad = check(settings);
        assert_eq!(bad.code, Some(1), "{settings}: {}", bad.output());
        assert!(
            bad.output().contains(expected),
            "{settings}: {}",
            bad.output()
        );
        assert!(
            !bad.output().contains("hunter2"),
            "{settings}: {}",
            bad.output()
        );
    }
}

#[test]
fn a_reload_goes_over_to_another_server_and_to_none() {
    let (first, second) = (Redis::start(), Redis::start());
    let text = |settings: &str| {
        format!(
            "server: {{ threads: 1, watch: false }}\nadmin: {{ address: 127.0.0.1:0, token: t }}\n{settings}\n{ROUTES}"
        )
    };
    let at = |redis: &Redis| {
        text(&format!(
            "redis: {{ url: '{}', pool_size: 2 }}",
            redis.url()
        ))
    };
    let gateway = Gateway::start(&at(&first));
    eventually("it is connected", || is_up(&gateway));
    gateway.rewrite(&at(&second));
    let answer = gateway.call("/reload", "t", "").json();
    assert_eq!(answer["result"], "reloaded");
    assert!(
        answer["upgrade_needed"].as_array().unwrap().is_empty(),
        "{answer}"
    );
    eventually("it is connected to the other", || {
        let status = gateway.status();
        status["redis"]["address"] == second.address().to_string() && is_up(&gateway)
    });
    let clients = |redis: &Redis| redis.ask(&["CLIENT", "LIST"]).lines().count();
    eventually("the first is left", || clients(&first) == 1);
    eventually("the second has them", || clients(&second) > 2);
    gateway.rewrite(&text(""));
    gateway.call("/reload", "t", "");
    eventually("the second is left, too", || clients(&second) == 1);
    assert!(gateway.status()["redis"].is_null());
}

#[test]
fn tls_needs_the_right_authority_name_and_client() {
    let (ours, other) = (Authority::new(), Authority::new());
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    ours.issue(&["127.0.0.1"]).write(folder.path(), "server");
    ours.issue_client("gateway").write(folder.path(), "client");
    std::fs::write(path("ours.pem"), &ours.pem).unwrap();
    std::fs::write(path("other.pem"), &other.pem).unwrap();
    let redis = Redis::with(&[
        "--tls-port",
        TLS_PORT,
        "--tls-cert-file",
        &path("server.crt"),
        "--tls-key-file",
        &path("server.key"),
        "--tls-ca-cert-file",
        &path("ours.pem"),
    ]);
    let port = redis.tls_port();
    let client = format!(
        "client_cert: '{}', client_key: '{}'",
        path("client.crt"),
        path("client.key")
    );
    let start = |host: &str, ca: &str, client: &str| {
        let ca = path(ca);
        start(&format!(
            "url: 'rediss://{host}:{port}', ca: '{ca}', {client}"
        ))
    };
    let good = start("127.0.0.1", "ours.pem", &client);
    eventually("it is connected by TLS", || is_up(&good));
    for (what, bad) in [
        ("authority", start("127.0.0.1", "other.pem", &client)),
        ("name", start("localhost", "ours.pem", &client)),
        ("client", start("127.0.0.1", "ours.pem", "")),
    ] {
        eventually(what, || {
            errors(&bad, "connect") + errors(&bad, "io") >= 2.0 && !is_up(&bad)
        });
    }
}

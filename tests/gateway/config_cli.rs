//! The command line, and what is said about a configuration that cannot be used.

use std::net::TcpListener;
use std::path::Path;

use crate::support::client::get;
use crate::support::command::{Finished, binary, finish};
use crate::support::gateway::config_directory;
use crate::support::{Gateway, Origin};

/// Writes this text as a configuration and validates it.
#[track_caller]
fn validate(yaml: &str) -> Finished {
    let directory = config_directory(yaml);
    finish(
        binary()
            .arg("-t")
            .arg("-c")
            .arg(directory.path().join("gateway.yaml")),
    )
}

/// Expects exit 1 and a line about line `line` of the file with each of these words.
#[track_caller]
fn assert_problem(run: &Finished, line: usize, words: &[&str]) {
    assert_eq!(run.code, Some(1), "{run:?}");
    let output = run.output();
    let place = format!("gateway.yaml:{line}:");
    let fits = |text: &str| text.contains(&place) && words.iter().all(|word| text.contains(word));
    assert!(
        output.lines().any(fits),
        "nothing with {place} and {words:?} in:\n{output}"
    );
}

#[track_caller]
fn in_file(arguments: &[&str], yaml: &str) -> Finished {
    let directory = config_directory(yaml);
    let file = directory.path().join("gateway.yaml");
    let mut command = binary();
    for argument in arguments {
        match *argument {
            "FILE" => command.arg(&file),
            other => command.arg(other),
        };
    }
    finish(&mut command)
}

const GOOD: &str = "routes: [{ name: a, respond: {} }]";

#[test]
fn three_mistakes_are_told_in_one_run_with_their_lines() {
    let run = validate(
        "limits:
  request_header_timeout: soon
routes:
  - name: a
    upstream: missing
  - name: b
    uptsream: http://127.0.0.1:1
    respond: {}
",
    );
    assert_problem(&run, 2, &["limits.request_header_timeout", "soon"]);
    assert_problem(&run, 5, &["routes[0].upstream", "missing"]);
    assert_problem(&run, 7, &["uptsream", "upstream"]);
    let problems = run.output().matches("gateway.yaml:").count();
    assert_eq!(problems, 3, "{}", run.output());
}

#[test]
fn every_way_to_ask_for_validation_works() {
    for arguments in [
        &["-t", "-c", "FILE"][..],
        &["--validate-config", "--conf", "FILE"],
        &["-validate-config", "-c", "FILE"],
        &["-t", "FILE"],
        &["-c", "FILE", "-t"],
    ] {
        let good = in_file(arguments, GOOD);
        assert_eq!(good.code, Some(0), "{arguments:?} {good:?}");
        let bad = in_file(arguments, "routes: [{ name: a, upstream: missing }]");
        assert_eq!(bad.code, Some(1), "{arguments:?} {bad:?}");
    }
}

#[test]
fn validation_binds_no_port() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let run = validate(&format!(
        "listeners: [{{ address: '{}' }}]\n{GOOD}",
        taken.local_addr().unwrap()
    ));
    assert_eq!(run.code, Some(0), "{run:?}");
}

#[test]
fn a_missing_file_is_one_clear_line() {
    let run = Gateway::command(&["-c", "/nowhere/gateway.yaml"]);
    assert_eq!(run.code, Some(1));
    let lines: Vec<_> = run.stderr.lines().collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("/nowhere/gateway.yaml"), "{lines:?}");
}

#[test]
fn bad_yaml_is_told_with_its_line() {
    let run = in_file(&["-c", "FILE"], "routes:\n  - name: [a\n  - }\n");
    assert_eq!(run.code, Some(1));
    let lines: Vec<_> = run.stderr.lines().collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("gateway.yaml:"), "{lines:?}");
}

#[test]
fn an_address_in_use_stops_the_start() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for yaml in [
        format!("listeners: [{{ address: 127.0.0.1:0 }}, {{ address: '{address}' }}]\n{GOOD}"),
        format!("admin: {{ address: '{address}' }}\n{GOOD}"),
    ] {
        let run = in_file(&["-c", "FILE"], &yaml);
        assert_eq!(run.code, Some(1), "{run:?}");
        let about = |line: &&str| line.contains(&address) && line.contains("in use");
        let told = run.stderr.lines().filter(about).count();
        assert_eq!(told, 1, "{}", run.stderr);
        assert!(!run.stderr.contains("panic"), "{}", run.stderr);
    }
}

#[test]
fn an_unknown_upstream_is_told() {
    let run = validate(
        "upstreams: { users: { backends: ['127.0.0.1:1'] } }\nroutes:\n  - { name: a, upstream: user }\n",
    );
    assert_problem(&run, 3, &["routes[0].upstream", "user"]);
}

#[test]
fn unreadable_secrets_are_told() {
    let run = validate(
        "routes:
  - name: a
    upstream: http://127.0.0.1:1
    headers:
      request:
        set:
          X-One: file:/nowhere/secret
          X-Two: ${NOT_SET_ANYWHERE}
",
    );
    assert_problem(&run, 7, &["/nowhere/secret"]);
    assert_problem(&run, 8, &["NOT_SET_ANYWHERE"]);
}

#[test]
fn routes_that_cannot_be_told_apart_are_an_error() {
    let run = validate(
        "routes:
  - { name: one, match: { path: '/a/:id' }, respond: {} }
  - { name: two, match: { path: '/a/:name' }, respond: {} }
",
    );
    assert_problem(&run, 3, &["`one`", "`two`", "/a/:"]);
}

#[test]
fn a_file_that_cannot_be_used_starts_nothing() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let run = in_file(
        &["-c", "FILE"],
        &format!("listeners: [{{ address: '{address}' }}]\nroutes: [{{ upstream: missing }}]"),
    );
    assert_eq!(run.code, Some(1));
    assert!(!run.output().contains("listening on"), "{run:?}");
}

#[test]
fn values_and_secrets_come_from_the_environment_and_files() {
    let origin = Origin::echo();
    let yaml = format!(
        "routes:
  - name: a
    upstream: http://{}
    headers: {{ request: {{ set: {{ X-One: '${{ONE}}', X-Two: '${{TWO:-two}}', X-Three: 'file:three' }} }} }}",
        origin.address()
    );
    let directory = config_directory(&yaml);
    std::fs::write(directory.path().join("three"), "from a file\n").unwrap();
    let mut command = binary();
    command
        .arg(directory.path().join("gateway.yaml"))
        .env("ONE", "from outside");
    let gateway = Gateway::launch(command, Some(directory));
    get(gateway.addr(), "/");
    let seen = origin.only_request();
    assert_eq!(seen.header("x-one"), Some("from outside"));
    assert_eq!(seen.header("x-two"), Some("two"));
    assert_eq!(seen.header("x-three"), Some("from a file"));
}

#[test]
fn a_secret_is_never_shown() {
    let directory = config_directory(
        "limits: { uri_size: '${PASSWORD}' }
log: { level: 'file:secret' }
routes:
  - { name: a, upstream: 'http://${PASSWORD}/x' }
",
    );
    std::fs::write(directory.path().join("secret"), "hunter2").unwrap();
    let file = directory.path().join("gateway.yaml");
    let run = finish(binary().arg("-t").arg(file).env("PASSWORD", "hunter2"));
    assert_problem(&run, 1, &["uri_size", "${PASSWORD}"]);
    assert_problem(&run, 2, &["log.level"]);
    assert!(!run.output().contains("hunter2"), "{run:?}");
}

#[test]
fn a_secret_is_not_shown_while_it_runs() {
    let gateway = Gateway::start_with(
        "log: { level: debug }
routes: [{ name: a, headers: { response: { set: { X-Key: '${KEY}' } } }, respond: {} }]",
        |command| {
            command.env("KEY", "hunter2");
        },
    );
    get(gateway.addr(), "/");
    let status = get(gateway.admin(), "/status").text();
    let log = gateway.log_lines().join("\n");
    assert!(
        !status.contains("hunter2") && !log.contains("hunter2"),
        "{status}\n{log}"
    );
}

#[test]
fn the_environment_overrides_scalar_keys() {
    let gateway = Gateway::start_with(
        "listeners: [{ name: main, address: 127.0.0.1:0 }]\nroutes: [{ name: a, respond: {} }]",
        |command| {
            command
                .env("GATEWAY_LISTENERS_0_NAME", "renamed")
                .env("GATEWAY_METRICS_NAMESPACE", "edge")
                .env("GATEWAY_SERVICE_HOST", "10.0.0.1");
        },
    );
    gateway.listener("renamed");
    assert!(gateway.metrics().contains("edge_build_info"));
}

#[test]
fn a_bad_override_names_its_variable() {
    let directory = config_directory(GOOD);
    let file = directory.path().join("gateway.yaml");
    let run = finish(
        binary()
            .arg("-t")
            .arg(file)
            .env("GATEWAY_LIMITS_URI_SIZE", "many"),
    );
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.output().contains("GATEWAY_LIMITS_URI_SIZE"), "{run:?}");
}

#[test]
fn the_file_is_found_by_argument_or_environment() {
    let directory = config_directory("routes: [{ name: a, respond: { status: 418 } }]");
    let file = directory.path().join("gateway.yaml");
    let mut by_argument = binary();
    by_argument.arg(&file);
    let mut by_environment = binary();
    by_environment.env("GATEWAY_CONFIG", &file);
    for command in [by_argument, by_environment] {
        let gateway = Gateway::launch(command, None);
        assert_eq!(get(gateway.addr(), "/").status, 418);
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("conf")).unwrap();
    std::fs::copy(&file, folder.path().join("conf/gateway.yaml")).unwrap();
    let mut by_default = binary();
    by_default.current_dir(folder.path());
    let gateway = Gateway::launch(by_default, None);
    assert_eq!(get(gateway.addr(), "/").status, 418);
}

#[test]
fn the_version_is_printed_with_its_commit() {
    let run = Gateway::command(&["--version"]);
    assert_eq!(run.code, Some(0));
    let words: Vec<_> = run.stdout.split_whitespace().collect();
    assert_eq!(
        &words[..2],
        ["gateway", env!("CARGO_PKG_VERSION")],
        "{words:?}"
    );
    assert!(words.len() > 2, "no commit: {words:?}");
}

#[test]
fn the_schema_is_printed_as_json() {
    let run = Gateway::command(&["--print-schema"]);
    assert_eq!(run.code, Some(0));
    let schema: serde_json::Value = serde_json::from_str(&run.stdout).expect("JSON");
    assert!(schema["properties"]["routes"].is_object(), "{schema}");
}

#[test]
fn an_unknown_flag_is_refused() {
    let run = Gateway::command(&["--no-such-flag"]);
    assert!(run.code.is_some_and(|code| code != 0), "{run:?}");
}

#[test]
fn the_health_check_asks_the_running_gateway() {
    let yaml = format!("listeners: [{{ address: '{}' }}]\n{GOOD}", free_address());
    let mut gateway = Gateway::start(&yaml);
    let file = gateway.directory().join("gateway.yaml");
    assert_eq!(health_check(&file).code, Some(0));
    gateway.stop();
    assert_eq!(health_check(&file).code, Some(1));
}

#[test]
fn the_health_check_does_not_depend_on_the_file_on_disk() {
    let mut gateway = Gateway::start(GOOD);
    let file = gateway.directory().join("gateway.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    for changed in [
        text.clone(),
        format!("{text}\nnonsense: ["),
        format!("{text}\nnonsense: 1\n"),
        text.replace("127.0.0.1:0", &free_address().to_string()),
    ] {
        std::fs::write(&file, &changed).unwrap();
        let run = health_check(&file);
        assert_eq!(run.code, Some(0), "{changed}\n{}", run.output());
    }
    gateway.stop();
    assert_eq!(health_check(&file).code, Some(1));
}

#[test]
fn without_a_socket_the_health_check_asks_who_understands_it() {
    let (proxied, plain) = (free_address(), free_address());
    let listeners = format!(
        "listeners:\n- {{ address: '{proxied}', proxy_protocol: {{ trusted: [127.0.0.0/8] }} }}\n\
         - {{ name: b, address: '{plain}' }}\n"
    );
    let gateway = Gateway::start(&format!("{listeners}{GOOD}"));
    let other = config_directory(&format!("{listeners}{GOOD}"));
    assert!(!other.path().join("upgrade.sock").exists());
    let run = health_check(&other.path().join("gateway.yaml"));
    assert_eq!(run.code, Some(0), "{}", run.output());
    drop(gateway);
}

fn health_check(file: &Path) -> Finished {
    finish(binary().arg("--health-check").arg("-c").arg(file))
}

/// A free address of the loopback network that no other test uses, so that nobody can take its
/// port before the gateway does.
fn free_address() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.77.1:0").unwrap();
    listener.local_addr().unwrap()
}

#[test]
fn a_stopped_or_missing_gateway_is_not_healthy() {
    let directory = config_directory(&format!(
        "listeners: [{{ address: '{}' }}]\n{GOOD}",
        free_address()
    ));
    let run = health_check(&directory.path().join("gateway.yaml"));
    assert_eq!(run.code, Some(1));
    assert!(!run.stderr.contains("panic"), "{run:?}");
}

#[test]
fn pipes_are_refused_and_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    let file = folder.path().join("gateway.yaml");
    let upstream = "upstreams: { u: { backends: ['127.0.0.1:1'], tls: { ca: pipe } } }\n\
                    routes: [{ upstream: u }]";
    for text in ["routes: [{ respond: { body: 'file:pipe' } }]", upstream] {
        std::fs::write(&file, text).unwrap();
        let run = finish(binary().arg("-t").arg(&file));
        assert_eq!(run.code, Some(1), "{text}");
        assert!(run.stderr.contains("not a regular file"), "{}", run.stderr);
    }
    let run = finish(binary().arg("-t").arg(&pipe));
    assert_eq!(run.code, Some(1));
    assert!(run.stderr.contains("not a regular file"), "{}", run.stderr);
}

#[test]
fn lists_of_backends_are_read_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.yaml");
    let list = folder.path().join("backends.yaml");
    let text = "upstreams: { u: { discovery: { file: { path: backends.yaml } } } }\n\
                routes: [{ name: a, upstream: u }]\n";
    std::fs::write(&file, text).unwrap();
    let check = || finish(binary().arg("-t").arg(&file));
    let run = check();
    assert_eq!(run.code, Some(0), "{}", run.output());
    let warning = "warning: upstreams.u.discovery.file.path: there is no ";
    assert!(run.stdout.contains(warning), "{}", run.stdout);
    for (bad, expected) in [
        (
            "- 127.0.0.1:1\n- nowhere\n",
            "backends.yaml:2: [1]: `nowhere` has no port",
        ),
        ("[]", "has no backend"),
        ("- { address: '127.0.0.1:1', weight: 0 }", "no weight"),
    ] {
        std::fs::write(&list, bad).unwrap();
        let run = check();
        assert_eq!(run.code, Some(1), "{bad}");
        assert!(run.stderr.contains(expected), "{}", run.stderr);
    }
    std::fs::write(&list, "- 127.0.0.1:1\n").unwrap();
    let run = check();
    assert_eq!((run.code, run.stdout.contains("warning")), (Some(0), false));
}

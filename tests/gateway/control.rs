//! What can be changed on the admin listener, and by whom.

use crate::support::client::{format_request, get, request};
use crate::support::command::{binary, finish};
use crate::support::{Client, Gateway, eventually};

const ROUTES: &str = "routes: [{ name: a, respond: {} }]";

fn with_token() -> Gateway {
    Gateway::start_with(
        &format!("admin: {{ address: 127.0.0.1:0, token: '${{ADMIN_TOKEN}}' }}\n{ROUTES}"),
        |command| {
            command.env("ADMIN_TOKEN", "open-sesame");
        },
    )
}

#[test]
fn a_change_needs_the_token() {
    let gateway = with_token();
    for path in ["/reload", "/maintenance"] {
        let without = request(gateway.admin(), "POST", path, &[], b"");
        assert_eq!(without.status, 401, "{path}");
        assert_eq!(without.header("www-authenticate"), Some("Bearer"));
        assert_eq!(without.json()["error"], "unauthorized");
        for wrong in ["", "open", "open-sesame-and-more", "OPEN-SESAME"] {
            assert_eq!(gateway.call(path, wrong, "").status, 401, "{path} {wrong}");
        }
    }
    let right = gateway.call("/reload", "open-sesame", "");
    assert_eq!(right.status, 200, "{}", right.text());
    assert_eq!(right.json()["result"], "unchanged");
    let refused = [("result", "refused")];
    assert_eq!(gateway.metric("gateway_admin_calls_total", &refused), 10.0);
    let done = [("result", "done")];
    assert_eq!(gateway.metric("gateway_admin_calls_total", &done), 1.0);
}

#[test]
fn without_a_token_nothing_can_be_changed() {
    let gateway = Gateway::start(ROUTES);
    for path in ["/reload", "/maintenance"] {
        let answer = gateway.call(path, "anything", "{\"enabled\": true}");
        assert_eq!(answer.status, 403, "{path}");
        let message = answer.json()["message"].to_string();
        assert!(message.contains("admin.token"), "{message}");
    }
    assert_eq!(
        get(gateway.admin(), "/maintenance").json()["enabled"],
        false
    );
}

#[test]
fn the_token_is_shown_nowhere() {
    let gateway = with_token();
    gateway.call("/reload", "open-sesame", "");
    gateway.call("/reload", "wrong-token-9", "");
    eventually("the calls are logged with their peer", || {
        let lines = gateway.log_lines();
        lines
            .iter()
            .any(|line| line.contains("refused to 127.0.0.1:"))
            && lines
                .iter()
                .any(|line| line.contains("127.0.0.1:") && line.contains("asks for a reload"))
    });
    let all = [
        gateway.log_lines().join("\n"),
        gateway.status().to_string(),
        gateway.metrics(),
    ];
    for text in all {
        assert!(!text.contains("sesame"), "{text}");
        assert!(!text.contains("wrong-token-9"), "{text}");
    }
}

#[test]
fn every_refusal_is_logged_in_words_and_not_without_end() {
    let gateway = with_token();
    let token = "open-sesame";
    assert_eq!(get(gateway.admin(), "/reload").status, 405);
    assert_eq!(gateway.call("/reload", "wrong", "").status, 401);
    assert_eq!(gateway.call("/maintenance", token, "{}").status, 400);
    let none = "{\"enabled\": true, \"route\": \"none\"}";
    assert_eq!(gateway.call("/maintenance", token, none).status, 404);
    let is_refusal = |line: &&String| line.contains(" client::admin: ");
    for (call, reason) in [
        ("reload", "wrong method"),
        ("reload", "no token, or a wrong one"),
        ("maintenance", "the body is not understood"),
        ("maintenance", "there is no such route"),
    ] {
        eventually(reason, || {
            let lines = gateway.log_lines();
            let mut refusals = lines.iter().filter(is_refusal);
            let call = format!("{call} refused to 127.0.0.1:");
            refusals.any(|line| line.contains(&call) && line.ends_with(reason))
        });
    }
    let started = std::time::Instant::now();
    for _ in 0..200 {
        assert_eq!(gateway.call("/reload", "wrong", "").status, 401);
    }
    let seconds = started.elapsed().as_secs() as usize;
    let lines = gateway.log_lines();
    let written = lines.iter().filter(is_refusal).count();
    // Ten a second, and a word about the others.
    assert!(written < 11 * (seconds + 3), "{written} in {seconds} s");
}

#[test]
fn a_bad_token_in_the_file_is_not_shown_either() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.yaml");
    for bad in ["'two words'", "''", "[zig]", "'caf\u{e9}'"] {
        std::fs::write(&file, format!("admin: {{ token: {bad} }}\n{ROUTES}")).unwrap();
        let run = finish(binary().arg("-t").arg(&file));
        assert_eq!(run.code, Some(1), "{bad}");
        let text = run.output();
        assert!(text.contains(":1: admin.token: "), "{text}");
        for secret in ["two", "words", "zig", "caf"] {
            assert!(!text.contains(secret), "{text}");
        }
    }
}

#[test]
fn only_post_changes_anything() {
    let gateway = with_token();
    for (method, path, allow) in [
        ("GET", "/reload", "POST"),
        ("PUT", "/reload", "POST"),
        ("DELETE", "/maintenance", "GET, HEAD, POST"),
    ] {
        let answer = request(
            gateway.admin(),
            method,
            path,
            &["Authorization: Bearer open-sesame"],
            b"",
        );
        assert_eq!(answer.status, 405, "{method} {path}");
        assert_eq!(answer.header("allow"), Some(allow));
    }
    assert_eq!(gateway.status()["config"]["generation"], 1);
}

#[test]
fn bodies_that_say_nothing_or_too_much_are_refused() {
    let gateway = with_token();
    for body in [
        "",
        "[]",
        "{}",
        "{\"enabled\": \"yes\"}",
        "{\"enabled\": true, \"x\": 1}",
    ] {
        let answer = gateway.call("/maintenance", "open-sesame", body);
        assert_eq!(answer.status, 400, "{body}");
    }
    let none = gateway.call(
        "/maintenance",
        "open-sesame",
        "{\"enabled\":true,\"route\":\"b\"}",
    );
    assert_eq!(
        (none.status, &none.json()["error"]),
        (404, &"no_such_route".into())
    );
    let large = " ".repeat(100_000);
    let answer = gateway.call("/maintenance", "open-sesame", &large);
    assert_eq!(answer.status, 400);
    assert_eq!(gateway.status()["maintenance"]["enabled"], false);
    assert_eq!(get(gateway.admin(), "/status").status, 200);
}

#[test]
fn a_kept_connection_takes_several_calls() {
    let gateway = with_token();
    let mut client = Client::connect(gateway.admin());
    let token = "Authorization: Bearer open-sesame";
    for on in [true, false, true] {
        let body = format!("{{\"enabled\": {on}}}");
        let answer = client.exchange(format_request(
            "POST",
            "/maintenance",
            &[token],
            body.as_bytes(),
        ));
        assert_eq!(answer.json()["enabled"], on);
    }
}

#[test]
fn a_new_token_holds_from_the_next_call_on() {
    let text = |token: &str| {
        format!(
            "server: {{ threads: 1, watch: false }}\nadmin: {{ address: 127.0.0.1:0, token: {token} }}\n{ROUTES}"
        )
    };
    let gateway = Gateway::start(&text("first-one"));
    gateway.rewrite(&text("second-one"));
    let answer = gateway.call("/reload", "first-one", "");
    assert_eq!(answer.json()["result"], "reloaded");
    assert!(
        answer.json()["upgrade_needed"]
            .as_array()
            .unwrap()
            .is_empty()
    );
    assert_eq!(gateway.call("/reload", "first-one", "").status, 401);
    assert_eq!(gateway.call("/reload", "second-one", "").status, 200);
}

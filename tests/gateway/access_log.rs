//! One line for every request, and nothing secret in it.

use serde_json::Value;

use crate::support::client::{get, request};
use crate::support::{Gateway, Origin, Script, eventually};

#[test]
fn a_line_has_every_key_of_the_contract() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&format!(
        "upstreams: {{ shop: {{ backends: ['{}'] }} }}\nroutes: [{{ name: all, upstream: shop }}]",
        origin.address()
    ));
    let response = request(gateway.addr(), "POST", "/a/b?c=d", &[], b"four");
    let line = gateway.wait_access(|line| line["path"] == "/a/b");
    assert_eq!(line["level"], "INFO");
    assert_eq!(line["route"], "all");
    assert_eq!(line["method"], "POST");
    assert_eq!(line["status_code"], 200);
    assert_eq!(line["backend_service"], "shop");
    assert_eq!(line["backend"], origin.address().to_string());
    assert_eq!(line["client_ip"], "127.0.0.1");
    assert_eq!(line["bytes_in"], 4);
    assert_eq!(line["bytes_out"], response.body.len());
    assert_eq!(line["retries"], 0);
    assert_eq!(line["auth_status"], "none");
    assert_eq!(
        line["request_id"],
        origin.only_request().header("x-request-id").unwrap()
    );
    let whole = line["duration_ms"].as_f64().expect("a number");
    let backend = line["backend_duration_ms"].as_f64().expect("a number");
    assert!(0.0 < backend && backend <= whole, "{backend} of {whole}");
    assert!(line.get("error_type").is_none(), "{line}");
    let time = line["timestamp"].as_str().expect("a time");
    assert!(
        time.starts_with("20") && time.ends_with('Z') && time.contains('T'),
        "{time}"
    );
}

#[test]
fn the_message_can_be_searched_for_with_grep() {
    let origin = Origin::script(Script::new().reset());
    let gateway = Gateway::start(&format!(
        "routes:
  - {{ name: bad, match: {{ path: /bad }}, upstream: 'http://{}' }}
  - {{ name: good, match: {{ path: /good }}, respond: {{}} }}",
        origin.address()
    ));
    get(gateway.addr(), "/good");
    get(gateway.addr(), "/bad");
    let good = gateway.wait_access(|line| line["path"] == "/good");
    let message = good["message"].as_str().expect("a message");
    assert!(
        message.starts_with("GET /good status_code=200 auth_status=none"),
        "{message}"
    );
    assert!(!good.to_string().to_lowercase().contains("error"), "{good}");
    let bad = gateway.wait_access(|line| line["path"] == "/bad");
    assert_eq!(bad["level"], "ERROR");
    let message = bad["message"].as_str().expect("a message");
    assert!(message.contains("status_code=502"), "{message}");
    assert!(message.contains("error_type=reset"), "{message}");
}

#[test]
fn secrets_in_a_query_are_redacted() {
    let gateway = Gateway::start("routes: [{ name: a, respond: {} }]");
    get(
        gateway.addr(),
        "/q?page=2&token=hunter2&Password=hunter2&secret=hunter2&key=hunter2&code=hunter2&%74oken=hunter2",
    );
    let line = gateway.wait_access(|line| line["path"] == "/q");
    let text = line.to_string();
    assert!(!text.contains("hunter2"), "{text}");
    assert!(text.contains("page=2"), "{text}");
}

#[test]
fn credentials_in_headers_are_never_written() {
    let origin = Origin::echo();
    let gateway = Gateway::in_front_of(&origin);
    let headers = [
        "Authorization: Bearer hunter2",
        "Cookie: session=hunter2",
        "X-Api-Key: hunter2",
        "Proxy-Authorization: Basic hunter2",
    ];
    request(gateway.addr(), "GET", "/", &headers, b"");
    gateway.wait_access(|line| line["route"] == "all");
    let written = [gateway.output_lines(), gateway.log_lines()]
        .concat()
        .join("\n");
    assert!(!written.contains("hunter2"), "{written}");
}

#[test]
fn a_line_cannot_be_forged() {
    let gateway = Gateway::start("routes: [{ name: a, respond: {} }]");
    let path = "/%0a{\"level\":\"ERROR\"}\"quote\\back";
    get(gateway.addr(), path);
    let agent = "User-Agent: \"},{\"forged\":\"\u{e9}\t";
    request(gateway.addr(), "GET", "/agent", &[agent], b"");
    gateway.wait_access(|line| line["path"] == "/agent");
    // Parsing fails when a line is broken in two.
    let lines = gateway.access_lines();
    let forged = |line: &&Value| line.get("forged").is_some() || line["level"] == "ERROR";
    assert_eq!(lines.iter().find(forged), None);
}

#[test]
fn the_text_format_is_one_readable_line() {
    let gateway = Gateway::start(
        "access_log: { format: text }\nroutes: [{ name: a, respond: { status: 204 } }]",
    );
    get(gateway.addr(), "/some/path");
    eventually("the line is there", || {
        gateway
            .output_lines()
            .iter()
            .any(|line| line.contains("/some/path") && line.contains("204") && line.contains("GET"))
    });
    assert!(serde_json::from_str::<Value>(&gateway.output_lines()[0]).is_err());
}

#[test]
fn it_can_be_written_to_a_file_or_not_at_all() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("access.log");
    let to_file = Gateway::start(&format!(
        "access_log: {{ output: '{}' }}\nroutes: [{{ name: a, respond: {{}} }}]",
        file.display()
    ));
    get(to_file.addr(), "/written");
    eventually("the file has the line", || {
        std::fs::read_to_string(&file).is_ok_and(|text| text.contains("/written"))
    });
    assert!(
        !to_file
            .output_lines()
            .iter()
            .any(|line| line.contains("/written"))
    );

    let mut off =
        Gateway::start("access_log: { enabled: false }\nroutes: [{ name: a, respond: {} }]");
    get(off.addr(), "/unwritten");
    off.stop();
    assert!(
        !off.output_lines()
            .iter()
            .any(|line| line.contains("/unwritten"))
    );
}

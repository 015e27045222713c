//! Connections that change their protocol: WebSocket and others.

use tungstenite::Message;

use crate::support::client::status;
use crate::support::{Gateway, Origin, Script};

fn websocket_echo() -> Origin {
    Origin::conversation(|stream| {
        let Ok(mut socket) = tungstenite::accept(stream) else {
            return;
        };
        while let Ok(message) = socket.read() {
            if socket.send(message).is_err() {
                return;
            }
        }
    })
}

#[test]
fn websocket_messages_pass_both_ways() {
    let origin = websocket_echo();
    let gateway = Gateway::in_front_of(&origin);
    let stream = gateway.connect().into_stream();
    let url = format!("ws://{}/socket", gateway.addr());
    let (mut socket, response) = tungstenite::client(url, stream).expect("a handshake");
    assert_eq!(response.status(), 101);
    for size in [0, 5, 70_000] {
        let message = Message::binary(vec![7; size]);
        socket.send(message.clone()).expect("send");
        assert_eq!(socket.read().expect("read"), message);
    }
    socket.send(Message::text("hello")).expect("send");
    assert_eq!(socket.read().expect("read"), Message::text("hello"));
    socket.close(None).expect("close");
    while socket.read().is_ok() {}
    let line = gateway.wait_access(|line| line["path"] == "/socket");
    assert_eq!(line["status_code"], 101);
}

#[test]
fn a_refused_handshake_is_an_ordinary_answer() {
    let origin = Origin::echo();
    let gateway = Gateway::in_front_of(&origin);
    let mut client = gateway.connect();
    let response = client.exchange(handshake("websocket"));
    assert_eq!(response.json()["target"], "/chat");
    assert_eq!(origin.only_request().header("upgrade"), Some("websocket"));
    assert_eq!(client.get("/next").json()["target"], "/next");
}

#[test]
fn other_protocols_are_not_offered_to_the_backend() {
    for protocol in ["h2c", "chat", "TLS/1.3"] {
        let origin = Origin::echo();
        let gateway = Gateway::in_front_of(&origin);
        let mut client = gateway.connect();
        assert_eq!(client.exchange(handshake(protocol)).status, 200);
        assert_eq!(origin.only_request().header("upgrade"), None, "{protocol}");
        assert_eq!(client.get("/next").json()["target"], "/next");
    }
}

/// Anything the gateway said would be taken for the other protocol's bytes.
#[test]
fn a_silent_tunnel_ends_without_a_word_and_blames_nobody() {
    let accepts =
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let origin = Origin::script(Script::new().send(accepts).hold());
    let settings = "    timeouts: { upgraded_idle: 300ms }";
    let gateway = Gateway::with_upstream(&[origin.address()], settings);
    let mut client = gateway.connect();
    client.send(handshake("websocket"));
    let head = client.read_head();
    assert_eq!(status(&head), 101);
    assert!(client.is_closed(), "nothing but the end");
    let line = gateway.wait_access(|line| line["path"] == "/chat");
    assert_eq!(line["status_code"], 101);
    let blamed = [("backend_service", "u"), ("reason", "timeout_in_body")];
    assert_eq!(
        gateway.metric("gateway_backend_failures_total", &blamed),
        0.0
    );
}

#[test]
fn a_protocol_that_nobody_asked_for_is_502() {
    let origin =
        Origin::script(Script::new().read_body().send(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n",
        ));
    let gateway = Gateway::in_front_of(&origin);
    let response = gateway.connect().get("/");
    response.assert_refusal(502, "bad_gateway");
}

/// Bytes behind a handshake belong to the new protocol; when the backend stays with HTTP, it must
/// never read them as a request that nobody routed.
#[test]
fn a_request_behind_a_refused_handshake_is_not_smuggled() {
    let origin = Origin::echo();
    let routes = "  - { name: chat, match: { path: /chat }, upstream: u }";
    let gateway = Gateway::with_routes(&origin, routes);
    let mut client = gateway.connect();
    client.send(
        handshake("websocket") + "GET /secret HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n",
    );
    // What the client is told matters less than what the backend is not told.
    while client.try_response(true).is_ok() {}
    gateway.wait_access(|line| line["path"] == "/chat");
    let other = gateway.connect().exchange(handshake("websocket"));
    assert_eq!(other.json()["target"], "/chat");
    let targets: Vec<_> = origin.seen().into_iter().map(|seen| seen.target).collect();
    assert_eq!(targets, ["/chat", "/chat"]);
}

#[test]
fn a_request_behind_an_ignored_upgrade_is_answered() {
    let origin = Origin::echo();
    let gateway = Gateway::in_front_of(&origin);
    let mut client = gateway.connect();
    client.send(handshake("h2c") + "GET /next HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(client.read_response().json()["target"], "/chat");
    assert_eq!(client.read_response().json()["target"], "/next");
}

fn handshake(protocol: &str) -> String {
    format!(
        "GET /chat HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n"
    )
}

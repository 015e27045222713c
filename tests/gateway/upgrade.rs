//! Connections that change their protocol: WebSocket and others.

use std::io::{Read, Write};

use tungstenite::Message;

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
fn any_upgrade_becomes_a_plain_pipe() {
    let origin = Origin::script(
        Script::new()
            .send(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n",
            )
            .echo(),
    );
    let gateway = Gateway::in_front_of(&origin);
    let mut client = gateway.connect();
    client.send("GET / HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n");
    let response = client.read_response();
    assert_eq!(response.status, 101);
    assert_eq!(response.header("upgrade"), Some("chat"));
    let mut stream = client.into_stream();
    for word in ["one", "two"] {
        stream.write_all(word.as_bytes()).unwrap();
        let mut back = [0; 3];
        stream.read_exact(&mut back).unwrap();
        assert_eq!(back, word.as_bytes());
    }
}

#[test]
fn an_upgrade_that_is_not_taken_is_an_ordinary_answer() {
    let origin = Origin::echo();
    let gateway = Gateway::in_front_of(&origin);
    let mut client = gateway.connect();
    client.send("GET / HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n");
    assert_eq!(client.read_response().status, 200);
    let seen = origin.only_request();
    assert_eq!(seen.header("upgrade"), Some("chat"));
}

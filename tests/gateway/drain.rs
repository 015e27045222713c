//! What becomes of connections when the process ends: idle ones, accepted ones, WebSockets.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Message, WebSocket};

use crate::support::client::get;
use crate::support::{Client, Gateway, Origin, Script, eventually};

#[test]
fn a_kept_connection_gets_one_more_answer() {
    let origin = Origin::echo();
    let mut gateway = Gateway::in_front_of(&origin);
    let mut kept = gateway.connect();
    assert_eq!(kept.get("/").status, 200);
    gateway.signal("TERM");
    eventually("the port closes", || {
        std::net::TcpStream::connect(gateway.addr()).is_err()
    });
    let last = kept.get("/last");
    assert_eq!(
        (last.status, last.header("connection")),
        (200, Some("close"))
    );
    assert!(kept.is_closed());
    assert_eq!(gateway.wait_exit().code(), Some(0));
}

/// Connections that the kernel has accepted while the process could not look are answered.
#[test]
fn what_waits_in_the_queue_is_answered() {
    let origin = Origin::echo();
    let mut gateway = Gateway::in_front_of(&origin);
    gateway.signal("STOP");
    let mut clients: Vec<Client> = (0..100).map(|_| gateway.connect()).collect();
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    }
    gateway.signal("TERM");
    gateway.signal("CONT");
    for client in &mut clients {
        assert_eq!(client.read_response().status, 200);
    }
    assert_eq!(gateway.wait_exit().code(), Some(0));
}

fn told_to_leave<S: std::io::Read + std::io::Write>(socket: &mut WebSocket<S>) -> bool {
    loop {
        match socket.read() {
            Ok(Message::Close(Some(frame))) => return frame.code == CloseCode::Away,
            Ok(_) => {}
            Err(_) => return false,
        }
    }
}

#[test]
fn both_ends_of_a_websocket_are_told_to_close() {
    let (tell, told) = std::sync::mpsc::channel();
    let tell = std::sync::Mutex::new(tell);
    let origin = Origin::conversation(move |stream| {
        let Ok(mut socket) = tungstenite::accept(stream) else {
            return;
        };
        socket.send(Message::text("welcome")).unwrap();
        let orderly = told_to_leave(&mut socket);
        // The answer to the Close is written by reading on.
        while socket.read().is_ok() {}
        tell.lock().unwrap().send(orderly).unwrap();
    });
    let mut gateway = Gateway::start(&format!(
        "shutdown: {{ drain_timeout: 500ms }}\nroutes: [{{ name: all, upstream: 'http://{}' }}]",
        origin.address()
    ));
    let stream = gateway.connect().into_stream();
    let url = format!("ws://{}/socket", gateway.addr());
    let (mut socket, _) = tungstenite::client(url, stream).unwrap();
    assert_eq!(socket.read().unwrap(), Message::text("welcome"));
    gateway.signal("TERM");
    assert!(told_to_leave(&mut socket));
    while socket.read().is_ok() {}
    assert_eq!(told.recv_timeout(Duration::from_secs(20)), Ok(true));
    assert_eq!(gateway.wait_exit().code(), Some(0));
    // It was not cut.
    gateway.wait_log(&["nothing is in flight"]);
}

/// What is inside a frame is passed on to its end before the Close frame.
#[test]
fn a_websocket_frame_is_not_torn() {
    let accepts =
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let script = Script::new()
        .send(accepts)
        .send("\u{1}\u{5}hel")
        .delay(Duration::from_millis(500))
        .send("lo")
        .hold();
    let origin = Origin::script(script);
    let mut gateway = Gateway::start(&format!(
        "shutdown: {{ drain_timeout: 200ms }}\nroutes: [{{ name: all, upstream: 'http://{}' }}]",
        origin.address()
    ));
    let mut client = gateway.connect();
    client
        .send("GET / HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    client.read_head();
    gateway.signal("TERM");
    let mut bytes = Vec::new();
    while let Ok(some) = client.wire().some() {
        if some.is_empty() {
            break;
        }
        bytes.extend_from_slice(&some);
    }
    assert_eq!(bytes, b"\x01\x05hello\x88\x02\x03\xe9");
    assert_eq!(gateway.wait_exit().code(), Some(0));
}

#[test]
fn the_service_manager_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let heard = |manager: &UnixDatagram| {
        let mut bytes = [0; 1024];
        let count = manager.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    };
    let mut gateway = Gateway::start_with("routes: [{ name: a, respond: {} }]", |command| {
        command.env("NOTIFY_SOCKET", &path);
    });
    assert!(heard(&manager).starts_with("READY=1"));
    gateway.signal("HUP");
    let reloading = heard(&manager);
    assert!(
        reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="),
        "{reloading}"
    );
    assert!(heard(&manager).starts_with("READY=1"));
    assert_eq!(get(gateway.addr(), "/ready").status, 200);
    assert_eq!(gateway.stop().code(), Some(0));
    assert!(heard(&manager).starts_with("STOPPING=1"));
}

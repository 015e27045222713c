//! What was begun with a token and goes on: it ends when the token is revoked, and with the token
//! where the route asks for that.

use std::sync::Mutex;
use std::sync::mpsc;
use std::time::Duration;

use serde_json::json;
use tungstenite::Message;
use tungstenite::client::IntoClientRequest;
use tungstenite::protocol::frame::coding::CloseCode;

use crate::support::client::{Response, request};
use crate::support::h2::{self, H2};
use crate::support::tokens::{SECRET, Signer, now};
use crate::support::{Client, Gateway, Origin, Script, eventually};

const ADMIN: &str = "open-sesame";

fn start(origin: &Origin, route: &str) -> Gateway {
    Gateway::start(&format!(
        "server: {{ threads: 1, watch: false }}
listeners: [{{ name: main, address: 127.0.0.1:0, h2c: true }}]
admin: {{ address: 127.0.0.1:0, token: {ADMIN} }}
auth:
  default: main
  jwt: {{ name: main, issuer: id, audience: [api], secret: '{SECRET}', clock_skew: 0s }}
routes:
  - {{ name: all, upstream: 'http://{}'{route} }}",
        origin.address()
    ))
}

fn token(jti: &str, life: u64) -> String {
    Signer::hs256(SECRET).token(json!({
        "iss": "id", "aud": "api", "sub": "alice", "jti": jti, "iat": now() - 10, "exp": now() + life,
    }))
}

fn field(token: &str) -> String {
    format!("Authorization: Bearer {token}")
}

fn ask(gateway: &Gateway, token: &str) -> Response {
    request(gateway.addr(), "GET", "/", &[&field(token)], b"")
}

#[track_caller]
fn revoke(gateway: &Gateway, body: &str) {
    let answer = gateway.call("/revocations", ADMIN, body);
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[track_caller]
fn assert_revoked(answer: &Response) {
    answer.assert_refusal(401, "unauthorized");
    assert_eq!(answer.json()["error_type"], "revoked");
    let challenge = answer.header("www-authenticate").unwrap();
    assert!(challenge.contains("invalid_token"), "{challenge}");
}

/// A backend that begins a stream of events and never ends it.
fn events() -> Origin {
    Origin::script(
        Script::new()
            .send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
            .send("9\r\ndata: 1\n\n\r\n")
            .hold(),
    )
}

/// Begins to read the stream of events.
fn listen(gateway: &Gateway, token: &str) -> Client {
    let mut client = gateway.connect();
    let line = field(token);
    client.send(format!("GET / HTTP/1.1\r\nHost: test\r\n{line}\r\n\r\n"));
    assert_eq!(crate::support::client::status(&client.read_head()), 200);
    assert_eq!(client.wire().chunk().unwrap(), b"data: 1\n\n");
    client
}

#[track_caller]
fn assert_broken_off(client: &mut Client) {
    let rest = client.wire().some().unwrap_or_default();
    assert!(rest.is_empty(), "an end that looks good: {rest:?}");
}

#[test]
fn a_revoked_token_is_refused_though_it_was_good_before() {
    let origin = Origin::echo();
    let gateway = start(&origin, "");
    let (one, other) = (token("one", 60), token("other", 60));
    assert_eq!(ask(&gateway, &one).status, 200);
    revoke(&gateway, "{\"jti\": \"one\"}");
    assert_revoked(&ask(&gateway, &one));
    assert_eq!(ask(&gateway, &other).status, 200);
    revoke(&gateway, "{\"subject\": \"alice\"}");
    assert_revoked(&ask(&gateway, &other));
    let header = format!("Authorization: Bearer {ADMIN}");
    let lift = "/revocations?subject=alice";
    let answer = request(gateway.admin(), "DELETE", lift, &[&header], b"");
    assert_eq!(answer.status, 200);
    assert_eq!(ask(&gateway, &other).status, 200);
}

#[test]
fn a_websocket_ends_when_its_token_is_revoked() {
    let (tell, told) = mpsc::channel();
    let tell = Mutex::new(tell);
    let origin = Origin::conversation(move |stream| {
        let Ok(mut socket) = tungstenite::accept(stream) else {
            return;
        };
        socket.send(Message::text("welcome")).unwrap();
        let mut code = None;
        while let Ok(message) = socket.read() {
            if let Message::Close(Some(frame)) = message {
                code = Some(frame.code);
            }
        }
        tell.lock().unwrap().send(code).unwrap();
    });
    let gateway = start(&origin, "");
    let open = |jti: &str| {
        let url = format!("ws://{}/socket", gateway.addr());
        let mut asked = url.into_client_request().unwrap();
        let value = format!("Bearer {}", token(jti, 60));
        asked
            .headers_mut()
            .insert("authorization", value.parse().unwrap());
        let (mut socket, _) = tungstenite::client(asked, gateway.connect().into_stream()).unwrap();
        assert_eq!(socket.read().unwrap(), Message::text("welcome"));
        socket
    };
    let (mut revoked, mut other) = (open("a"), open("b"));
    revoke(&gateway, "{\"jti\": \"a\"}");
    let Ok(Message::Close(Some(frame))) = revoked.read() else {
        panic!("it was not told to close");
    };
    assert_eq!(frame.code, CloseCode::Policy);
    while revoked.read().is_ok() {}
    let code = told.recv_timeout(Duration::from_secs(20));
    assert_eq!(code, Ok(Some(CloseCode::Policy)));
    other.send(Message::text("still here")).unwrap();
    other.close(None).unwrap();
    while other.read().is_ok() {}
    let code = told.recv_timeout(Duration::from_secs(20));
    assert_eq!(code, Ok(None), "it closed by itself, without a code");
}

#[test]
fn a_stream_of_events_ends_when_its_subject_is_revoked() {
    let origin = events();
    let gateway = start(&origin, "");
    let mut client = listen(&gateway, &token("a", 60));
    revoke(&gateway, "{\"jti\": \"another\"}");
    revoke(&gateway, "{\"subject\": \"alice\"}");
    assert_broken_off(&mut client);
    let line = gateway.wait_access(|line| line["path"] == "/");
    assert_eq!(line["status_code"], 200);
    assert_eq!(line["error_type"], "revoked");
}

#[test]
fn a_stream_of_http2_ends_alone() {
    let origin = events();
    let gateway = start(&origin, "");
    let mut client = H2::connect(gateway.addr());
    let value = format!("Bearer {}", token("a", 60));
    let asked = h2::get("/").header("authorization", value);
    let (response, _) = client.begin(asked, true).unwrap();
    // The backend has been asked, so that the stream is known to be under way.
    eventually("it is under way", || origin.requests() == 1);
    let jti = "{\"jti\": \"a\"}";
    std::thread::scope(|scope| {
        scope.spawn(|| revoke(&gateway, jti));
        assert!(client.answer(response).is_err(), "it was cut off");
    });
    let again = h2::get("/").header("authorization", format!("Bearer {}", token("a", 60)));
    assert_eq!(client.exchange(again).status, 401);
}

#[test]
fn what_is_open_outlives_its_token_unless_the_route_asks_for_its_end() {
    let origin = events();
    let asks = ", auth: { any_of: [main], close_on_expiry: true }";
    let (strict, lax) = (start(&origin, asks), start(&origin, ""));
    let mut goes_on = listen(&lax, &token("a", 6));
    let mut ends = listen(&strict, &token("a", 6));
    assert_broken_off(&mut ends);
    let line = strict.wait_access(|line| line["path"] == "/");
    assert_eq!(line["error_type"], "expired");
    let wait = Some(Duration::from_millis(300));
    goes_on.wire().stream().set_read_timeout(wait).unwrap();
    assert!(
        goes_on.wire().some().is_err(),
        "nothing comes and nothing ends"
    );
}

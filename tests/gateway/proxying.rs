//! What passes between a client and a backend.

use std::time::Duration;

use crate::support::client::{format_request, get, request, status};
use crate::support::{Gate, Gateway, Origin, Script};

#[test]
fn connections_are_kept_on_both_sides() {
    let origin = Origin::echo();
    let gateway = Gateway::in_front_of(&origin);
    let mut client = gateway.connect();
    for path in ["/one", "/two?x=1", "/three"] {
        let response = client.get(path);
        assert_eq!(response.status, 200);
        assert_eq!(response.version, "HTTP/1.1");
        assert_eq!(response.json()["target"], path);
    }
    assert_eq!((origin.connections(), origin.requests()), (1, 3));
}

#[test]
fn a_backend_connection_serves_many_clients() {
    let origin = Origin::echo();
    let gateway = Gateway::in_front_of(&origin);
    for _ in 0..5 {
        assert_eq!(get(gateway.addr(), "/").status, 200);
    }
    assert_eq!(origin.requests(), 5);
    assert!(origin.connections() < 3, "{}", origin.connections());
}

#[test]
fn a_request_to_close_is_honoured() {
    let origin = Origin::echo();
    let gateway = Gateway::in_front_of(&origin);
    let mut client = gateway.connect();
    let response = client.exchange(format_request("GET", "/", &["Connection: close"], b""));
    assert_eq!(response.status, 200);
    assert_eq!(response.header("connection"), Some("close"));
    assert!(client.is_closed());
}

#[test]
fn http_1_0_is_answered_and_closed() {
    let origin = Origin::echo();
    let gateway = Gateway::in_front_of(&origin);
    let mut client = gateway.connect();
    let response = client.exchange("GET /old HTTP/1.0\r\nHost: test\r\n\r\n");
    assert_eq!(response.status, 200);
    assert_eq!(response.json()["target"], "/old");
    assert!(client.is_closed());
    let seen = String::from_utf8(origin.only_request().raw).unwrap();
    assert!(seen.starts_with("GET /old HTTP/1.1\r\n"), "{seen}");
}

#[test]
fn http_1_0_needs_no_host_but_the_backend_gets_one() {
    let origin = Origin::echo();
    let gateway = Gateway::in_front_of(&origin);
    let response = gateway.connect().exchange("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(response.status, 200, "{}", response.text());
    assert!(origin.only_request().header("host").is_some());
}

#[test]
fn http_1_0_may_keep_its_connection() {
    let origin = Origin::echo();
    let gateway = Gateway::in_front_of(&origin);
    let mut client = gateway.connect();
    let request = "GET / HTTP/1.0\r\nHost: test\r\nConnection: keep-alive\r\n\r\n";
    let first = client.exchange(request);
    assert_eq!(
        first.header("connection").map(str::to_lowercase).as_deref(),
        Some("keep-alive")
    );
    assert_eq!(client.exchange(request).status, 200);
}

#[test]
fn http_1_0_never_gets_chunks() {
    let origin = Origin::script(Script::new().read_body().send(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
    ));
    let gateway = Gateway::in_front_of(&origin);
    let mut client = gateway.connect();
    let response = client.exchange("GET / HTTP/1.0\r\nHost: test\r\n\r\n");
    assert_eq!(response.header("transfer-encoding"), None);
    assert_eq!(response.text(), "abcde");
    assert!(client.is_closed());
}

#[test]
fn head_has_the_length_and_no_body() {
    let origin = Origin::script(
        Script::new()
            .read_body()
            .send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
    );
    let gateway = Gateway::in_front_of(&origin);
    let mut client = gateway.connect();
    for _ in 0..2 {
        client.send("HEAD / HTTP/1.1\r\nHost: test\r\n\r\n");
        let response = client.read_response_to_head();
        assert_eq!(response.status, 200);
        assert_eq!(response.header("content-length"), Some("5"));
    }
    assert_eq!((origin.connections(), origin.requests()), (1, 2));
}

#[test]
fn bodies_of_known_length_pass_unchanged() {
    let origin = Origin::echo();
    let gateway = Gateway::in_front_of(&origin);
    let body: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let response = request(gateway.addr(), "POST", "/", &[], &body);
    assert_eq!(response.json()["body_length"], 300_000);
    let seen = origin.only_request();
    assert_eq!(seen.header("content-length"), Some("300000"));
    assert!(seen.body == body, "the body was changed");
}

#[test]
fn chunked_bodies_pass_both_ways() {
    let origin = Origin::script(Script::new().read_body().send(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nfirst \r\n6\r\nsecond\r\n0\r\n\r\n",
    ));
    let gateway = Gateway::in_front_of(&origin);
    let mut client = gateway.connect();
    client.send("POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.send("3\r\nabc\r\n");
    client.send("A;name=value\r\n0123456789\r\n0\r\n\r\n");
    let response = client.read_response();
    assert_eq!(response.text(), "first second");
    assert_eq!(response.header("transfer-encoding"), Some("chunked"));
    let seen = origin.only_request();
    assert_eq!(seen.body, b"abc0123456789");
    assert_eq!(seen.header("transfer-encoding"), Some("chunked"));
    assert_eq!(seen.header("content-length"), None);
    assert_eq!(client.get("/again").status, 200);
}

#[test]
fn a_body_is_streamed_before_it_is_complete() {
    let origin = Origin::echo();
    let gateway = Gateway::in_front_of(&origin);
    let mut client = gateway.connect();
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 6\r\n\r\nabc");
    crate::support::eventually("the header reaches the backend", || origin.requests() == 1);
    client.send("def");
    assert_eq!(client.read_response().json()["body_length"], 6);
}

#[test]
fn expect_100_continue_is_answered_before_the_body() {
    let origin = Origin::echo();
    let gateway = Gateway::in_front_of(&origin);
    let mut client = gateway.connect();
    client
        .send("PUT / HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n");
    assert_eq!(status(&client.read_head()), 100);
    client.send("body");
    let response = client.read_response();
    assert_eq!(response.json()["body_length"], 4);
    // The connection goes on unless the response said otherwise.
    if response.header("connection") != Some("close") {
        assert_eq!(client.get("/again").status, 200);
    }
}

#[test]
fn an_expected_body_that_is_refused_need_not_be_sent() {
    let origin =
        Origin::script(Script::new().send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"));
    let gateway = Gateway::in_front_of(&origin);
    let mut client = gateway.connect();
    client
        .send("PUT / HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n");
    let response = client.read_response();
    assert_eq!((response.status, response.text().as_str()), (403, "no"));
    assert!(response.interim.is_empty(), "nothing asked for the body");
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let origin = Origin::echo();
    let gateway = Gateway::in_front_of(&origin);
    let mut client = gateway.connect();
    let pipelined = [
        format_request("GET", "/1", &[], b""),
        format_request("POST", "/2", &[], b"body"),
        format_request("GET", "/3", &[], b""),
    ];
    client.send(pipelined.concat());
    for target in ["/1", "/2", "/3"] {
        assert_eq!(client.read_response().json()["target"], target);
    }
}

#[test]
fn a_request_in_small_pieces_is_one_request() {
    let origin = Origin::echo();
    let gateway = Gateway::in_front_of(&origin);
    let mut client = gateway.connect();
    for byte in format_request("POST", "/slow", &[], b"body") {
        client.send([byte]);
    }
    let response = client.read_response();
    assert_eq!(response.json()["target"], "/slow");
    assert_eq!(response.json()["body_length"], 4);
}

#[test]
fn a_header_just_below_the_limits_passes() {
    let origin = Origin::echo();
    let gateway = Gateway::in_front_of(&origin);
    let large = format!("X-Large: {}", "v".repeat(30_000));
    let response = request(gateway.addr(), "GET", "/", &[&large], b"");
    assert_eq!(response.status, 200);
    assert_eq!(
        origin.seen()[0].header("x-large").map(str::len),
        Some(30_000)
    );

    let fields: Vec<String> = (0..99).map(|n| format!("X-{n}: {n}")).collect();
    let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
    let response = request(gateway.addr(), "GET", "/", &fields, b"");
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(origin.seen()[1].header("x-98"), Some("98"));

    let path = format!("/{}", "p".repeat(8_000));
    let response = get(gateway.addr(), &path);
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(origin.seen()[2].target, path);
}

#[test]
fn statuses_without_a_body_leave_the_connection_usable() {
    let origin = Origin::answering(|request| {
        Script::new().send(match request.target.as_str() {
            "/204" => "HTTP/1.1 204 No Content\r\n\r\n",
            "/304" => "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 9\r\n\r\n",
            _ => "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nend",
        })
    });
    let gateway = Gateway::in_front_of(&origin);
    let mut client = gateway.connect();
    let empty = client.get("/204");
    assert_eq!(empty.status, 204);
    assert_eq!(empty.header("content-length"), None);
    assert_eq!(empty.header("transfer-encoding"), None);
    let unchanged = client.get("/304");
    assert_eq!(unchanged.status, 304);
    assert_eq!(unchanged.header("etag"), Some("\"x\""));
    assert_eq!(client.get("/200").text(), "end");
}

#[test]
fn a_response_that_ends_with_its_connection_arrives_whole() {
    let origin = Origin::script(
        Script::new()
            .send("HTTP/1.1 200 OK\r\n\r\n")
            .fill(100_000)
            .close(),
    );
    let gateway = Gateway::in_front_of(&origin);
    let mut client = gateway.connect();
    for _ in 0..2 {
        assert_eq!(client.get("/").body.len(), 100_000);
    }
}

#[test]
fn trailers_do_not_disturb_the_connection() {
    let origin = Origin::script(Script::new().read_body().send(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 3\r\n\r\n",
    ));
    let gateway = Gateway::in_front_of(&origin);
    let mut client = gateway.connect();
    for _ in 0..2 {
        client.send("POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n");
        client.send("2\r\nhi\r\n0\r\nX-Check: 1\r\n\r\n");
        assert_eq!(client.read_response().text(), "abc");
    }
    let seen = origin.seen();
    assert_eq!(seen.len(), 2);
    assert!(seen.iter().all(|request| request.body == b"hi"));
}

#[test]
fn interim_responses_do_not_replace_the_final_one() {
    let origin = Origin::script(
        Script::new()
            .send("HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n")
            .send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone"),
    );
    let gateway = Gateway::in_front_of(&origin);
    let mut client = gateway.connect();
    for _ in 0..2 {
        let response = client.get("/");
        assert_eq!((response.status, response.text().as_str()), (200, "done"));
    }
}

#[test]
fn a_response_that_trickles_arrives_whole() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
    let origin = Origin::script(Script::new().drip(answer, Duration::from_millis(2)));
    let gateway = Gateway::in_front_of(&origin);
    assert_eq!(get(gateway.addr(), "/").text(), "hello");
}

#[test]
fn server_sent_events_arrive_one_by_one() {
    let gate = Gate::new();
    let origin = Origin::script(
        Script::new()
            .send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n")
            .send("Transfer-Encoding: chunked\r\n\r\n")
            .send("9\r\ndata: 1\n\n\r\n")
            .wait(&gate)
            .send("9\r\ndata: 2\n\n\r\n0\r\n\r\n"),
    );
    let gateway = Gateway::in_front_of(&origin);
    let mut client = gateway.connect();
    client.send(format_request(
        "GET",
        "/",
        &["Accept: text/event-stream"],
        b"",
    ));
    let head = client.read_head();
    assert_eq!(head.headers.get("content-type"), Some("text/event-stream"));
    assert_eq!(client.wire().chunk().unwrap(), b"data: 1\n\n");
    gate.open();
    assert_eq!(client.wire().chunk().unwrap(), b"data: 2\n\n");
    assert_eq!(client.wire().chunk().unwrap(), b"");
}

#[test]
fn options_for_the_whole_server_passes() {
    let origin = Origin::echo();
    let gateway = Gateway::in_front_of(&origin);
    let response = request(gateway.addr(), "OPTIONS", "*", &[], b"");
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(origin.only_request().target, "*");
}

#[test]
fn an_error_status_of_the_backend_passes_as_it_is() {
    let origin = Origin::script(
        Script::new().send("HTTP/1.1 503 Busy\r\nX-Why: because\r\nContent-Length: 4\r\n\r\nbusy"),
    );
    let gateway = Gateway::in_front_of(&origin);
    let response = get(gateway.addr(), "/");
    assert_eq!((response.status, response.text().as_str()), (503, "busy"));
    assert_eq!(response.header("x-why"), Some("because"));
}

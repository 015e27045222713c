//! gRPC from client to backend, HTTP/2 on both sides.

use std::future::Future;

use bytes::Bytes;
use h2::client::SendRequest;

use crate::support::h2::{H2, request};
use crate::support::{Act, Gateway, ModernOrigin, eventually};

fn gateway(origin: &ModernOrigin) -> Gateway {
    Gateway::start(&format!(
        "server: {{ threads: 1 }}\nlisteners: [{{ name: main, address: 127.0.0.1:0, h2c: true }}]\n\
         routes: [{{ name: all, upstream: 'h2c://{}', max_body_size: unlimited }}]\n",
        origin.address()
    ))
}

fn call(path: &str) -> http::request::Builder {
    request("POST", path)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
}

/// Runs a client that looks at the pieces as they come.
fn with_client<F: Future>(
    gateway: &Gateway,
    talk: impl FnOnce(SendRequest<Bytes>) -> F,
) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(gateway.addr())
            .await
            .unwrap();
        let (send, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        tokio::time::timeout(crate::support::wait::DEADLINE, talk(send))
            .await
            .unwrap()
    })
}

#[test]
fn a_call_arrives_as_it_is_and_ends_with_trailers() {
    let origin = ModernOrigin::h2c(|_| Act::Stream);
    let gateway = gateway(&origin);
    let mut client = H2::connect(gateway.addr());
    let one = call("/users.Users/Get").header("grpc-timeout", "20S");
    let answer = client.send(one, "\0\0\0\0\u{3}abc");
    assert_eq!(
        (answer.status.as_u16(), answer.text().as_str()),
        (200, "\0\0\0\0\u{3}abc")
    );
    assert_eq!(answer.trailers.unwrap()["grpc-status"], "0");
    let asked = origin.seen().remove(0);
    assert!(
        asked.target.ends_with("/users.Users/Get"),
        "{}",
        asked.target
    );
    for (name, value) in [("te", "trailers"), ("content-type", "application/grpc")] {
        assert_eq!(asked.headers[name], value);
    }
    let left = asked.headers["grpc-timeout"].to_str().unwrap();
    let left: u64 = left.strip_suffix('m').unwrap().parse().unwrap();
    assert!((1..=20_000).contains(&left), "what is left of it: {left}");
    for _ in 0..5 {
        assert_eq!(client.send(call("/users.Users/Get"), "x").text(), "x");
    }
    assert_eq!(origin.connections(), 1);
}

#[test]
fn a_call_can_end_with_its_header() {
    let origin = ModernOrigin::h2c(|_| Act::TrailersOnly);
    let gateway = gateway(&origin);
    let answer = H2::connect(gateway.addr()).send(call("/a"), "x");
    assert_eq!(
        (answer.status.as_u16(), answer.header("grpc-status")),
        (200, "5")
    );
    assert!(answer.body.is_empty() && answer.trailers.is_none());
}

#[test]
fn messages_pass_in_both_directions_before_either_ends() {
    let origin = ModernOrigin::h2c(|_| Act::Stream);
    let gateway = gateway(&origin);
    with_client(&gateway, |mut send| async move {
        let request = call("/chat").body(()).unwrap();
        let (response, mut stream) = send.send_request(request, false).unwrap();
        let mut body = response.await.unwrap().into_body();
        for word in ["one", "two", "three"] {
            stream.send_data(word.into(), false).unwrap();
            let mut echo = Vec::new();
            while echo.len() < word.len() {
                echo.extend_from_slice(&body.data().await.unwrap().unwrap());
            }
            assert_eq!(echo, word.as_bytes());
        }
        stream.send_data(Bytes::new(), true).unwrap();
        assert!(body.data().await.is_none());
        let trailers = body.trailers().await.unwrap().unwrap();
        assert_eq!(trailers["grpc-status"], "0");
    });
}

#[test]
fn messages_come_when_they_come() {
    let origin = ModernOrigin::h2c(|_| Act::Stream);
    let gateway = Gateway::start(&format!(
        "listeners: [{{ name: main, address: 127.0.0.1:0, h2c: true }}]\n\
         limits: {{ request_body_timeout: 200ms }}\n\
         routes: [{{ name: all, upstream: 'h2c://{}' }}]\n",
        origin.address()
    ));
    let mut client = H2::connect(gateway.addr());
    let (response, mut stream) = client.begin(call("/stream"), false).expect("a stream");
    stream.send_data("one".into(), false).expect("data");
    eventually("the backend has it", || origin.seen().len() == 1);
    std::thread::sleep(std::time::Duration::from_millis(600));
    stream.send_data("two".into(), true).expect("data");
    assert_eq!(client.answer(response).expect("an answer").text(), "onetwo");
}

#[test]
fn large_streams_do_not_wait_for_each_other() {
    const LENGTH: usize = 16 << 20;
    let origin = ModernOrigin::h2c(|_| Act::Stream);
    let gateway = gateway(&origin);
    with_client(&gateway, |mut send| async move {
        let request = call("/bulk").body(()).unwrap();
        let (response, mut stream) = send.send_request(request, false).unwrap();
        tokio::spawn(async move {
            let mut left = LENGTH;
            while left > 0 {
                stream.reserve_capacity(left.min(64 << 10));
                let room = std::future::poll_fn(|context| stream.poll_capacity(context)).await;
                let room = room.unwrap().unwrap().min(left);
                left -= room;
                stream
                    .send_data(vec![b'x'; room].into(), left == 0)
                    .unwrap();
            }
        });
        let mut body = response.await.unwrap().into_body();
        let mut received = 0;
        while let Some(piece) = body.data().await {
            let piece = piece.unwrap();
            received += piece.len();
            body.flow_control().release_capacity(piece.len()).unwrap();
        }
        assert_eq!(received, LENGTH);
    });
}

#[test]
fn a_deadline_reaches_the_backend_as_a_cancellation() {
    let origin = ModernOrigin::h2c(|_| Act::Hang);
    let gateway = gateway(&origin);
    let answer = H2::connect(gateway.addr()).send(call("/slow").header("grpc-timeout", "2S"), "x");
    assert_eq!(
        (answer.status.as_u16(), answer.header("grpc-status")),
        (200, "4")
    );
    eventually("the backend is told", || {
        origin.resets() == [h2::Reason::CANCEL]
    });
}

#[test]
fn who_cancels_a_call_cancels_it_everywhere() {
    let origin = ModernOrigin::h2c(|_| Act::HangInBody);
    let gateway = gateway(&origin);
    with_client(&gateway, |mut send| async move {
        let request = call("/stream").body(()).unwrap();
        let (response, mut stream) = send.send_request(request, true).unwrap();
        let mut body = response.await.unwrap().into_body();
        assert_eq!(&body.data().await.unwrap().unwrap()[..], b"half");
        stream.send_reset(h2::Reason::CANCEL);
        // The reset is written before the connection goes.
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    });
    eventually("the backend is told", || {
        origin.resets() == [h2::Reason::CANCEL]
    });
    assert_eq!(origin.connections(), 1);
}

#[test]
fn a_call_that_was_refused_is_made_again() {
    let origin = ModernOrigin::h2c(|asked| match asked.ordinal {
        0 => Act::Reset(h2::Reason::REFUSED_STREAM),
        _ => Act::Stream,
    });
    let gateway = gateway(&origin);
    let answer = H2::connect(gateway.addr()).send(call("/a"), "x");
    assert_eq!(answer.text(), "x");
    assert_eq!(answer.trailers.unwrap()["grpc-status"], "0");
}

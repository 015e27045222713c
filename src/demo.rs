//! `gateway demo`: an ordinary configuration over a small backend that runs in the same process, and a
//! token that it accepts.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header;
use pingora_core::apps::{HttpPersistentSettings, HttpServerApp, ReusedHttpStream, ServerApp};
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::server::ShutdownWatch;
use pingora_http::ResponseHeader;
use serde_json::json;

use crate::config::{self, Env, Loaded, Problems};
use crate::server::Bound;

/// The demo's configuration; `LISTEN`, `ADMIN` and `BACKEND` stand for addresses, `SECRET` for the key
/// of tokens.
const CONFIGURATION: &str = include_str!("demo.yaml");
/// How long the demo's token is good.
const TOKEN_LIFE: Duration = Duration::from_secs(7 * 86_400);
/// The longest delay that `/delay` grants.
const MAX_DELAY_MS: u64 = 10_000;
/// Events of `/stream` and the time between them.
const EVENTS: usize = 3;
const EVENT_PAUSE: Duration = Duration::from_millis(300);

/// Where the demo listens.
#[derive(clap::Args, Clone, Debug)]
pub struct Addresses {
    /// Where requests are taken.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Where metrics and status are shown.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9090")]
    admin: SocketAddr,
}

/// The demo's configuration over this backend, with this key of tokens.
pub fn configuration(
    addresses: &Addresses,
    backend: SocketAddr,
    issuer: &Issuer,
    env: &dyn Env,
) -> Result<Loaded, Problems> {
    let text = CONFIGURATION
        .replace("LISTEN", &addresses.listen.to_string())
        .replace("ADMIN", &addresses.admin.to_string())
        .replace("BACKEND", &backend.to_string())
        .replace("SECRET", &issuer.secret);
    config::parse(&text, "demo", Path::new("."), env)
}

/// Whoever issues the demo's tokens: a secret of this process alone.
pub struct Issuer {
    secret: String,
}

impl Issuer {
    /// With a fresh secret. Fails when the system gives no random bytes.
    pub fn new() -> Result<Self, &'static str> {
        let mut bytes = [0; 32];
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_| "the system gives no random bytes")?;
        let secret = URL_SAFE_NO_PAD.encode(bytes);
        Ok(Self { secret })
    }

    /// A token for `alice`, who may read.
    fn token(&self, now: SystemTime) -> String {
        let end = (now + TOKEN_LIFE).duration_since(UNIX_EPOCH);
        let claims = json!({
            "iss": "demo",
            "sub": "alice",
            "scope": "read",
            "exp": end.unwrap_or_default().as_secs(),
        });
        let encode = |part: &serde_json::Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let header = json!({ "alg": "HS256", "typ": "JWT" });
        let signed = format!("{}.{}", encode(&header), encode(&claims));
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.secret.as_bytes());
        let signature = hmac::sign(&key, signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// Prints requests worth trying, each with its answer.
pub fn announce(bound: &Bound, issuer: &Issuer) {
    if let Some(address) = bound.listeners.first() {
        let token = issuer.token(SystemTime::now());
        println!("{}", requests(*address, bound.admin, &token));
    }
}

fn requests(at: SocketAddr, admin: Option<SocketAddr>, token: &str) -> String {
    let mut text = format!(
        r#"
The gateway listens on http://{at}. Try, in another terminal:

  curl -s http://{at}/hello
    Hello from the gateway.
  curl -s 'http://{at}/api/echo/users?id=7'
    {{"method":"GET","target":"/echo/users?id=7","client":"127.0.0.1","body":""}}
  curl -s -d 'some data' http://{at}/api/upload
    {{"received":9}}
  curl -sN http://{at}/api/stream
    data: 1
    data: 2
    data: 3
  curl -s -o /dev/null -w '%{{http_code}} %{{redirect_url}}\n' http://{at}/old/page
    301 http://{at}/hello
  curl -s -o /dev/null -w '%{{http_code}}\n' -X DELETE http://{at}/hello
    405
  curl -s -o /dev/null -w '%{{http_code}}\n' http://{at}/private/notes
    401
  curl -s -H 'Authorization: Bearer {token}' http://{at}/private/notes
    {{"method":"GET","target":"/echo/notes","client":"127.0.0.1","user":"alice","body":""}}
"#
    );
    if let Some(admin) = admin {
        text.push_str(&format!(
            "\nWatch it: http://{admin}/metrics and http://{admin}/status. Every request is a line below.\n"
        ));
    }
    text
}

/// Starts the backend on a free port, in a thread of its own.
pub fn start_backend() -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::Builder::new()
        .name("demo-backend".to_owned())
        .spawn(move || runtime.block_on(serve(listener)))?;
    Ok(address)
}

async fn serve(listener: TcpListener) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return log::error!("demo backend: {error}"),
    };
    let app = Arc::new(Backend);
    // It never ends by itself; the process does.
    let (_sender, shutdown) = tokio::sync::watch::channel(false);
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        // Header and body are written apart; neither shall wait for the other to be acknowledged.
        let _ = stream.set_nodelay(true);
        let (app, shutdown) = (Arc::clone(&app), shutdown.clone());
        tokio::spawn(async move {
            let stream = Box::new(Stream::from(stream));
            drop(app.process_new(stream, &shutdown).await);
        });
    }
}

/// The backend: `/echo`, `/delay/MS`, `/status/CODE`, `/stream`, `/upload`.
struct Backend;

#[async_trait]
impl HttpServerApp for Backend {
    async fn process_new_http(
        self: &Arc<Self>,
        mut session: ServerSession,
        _shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        if !session.read_request().await.ok()? {
            return None;
        }
        session.set_keepalive(Some(60));
        answer(&mut session).await.ok()?;
        let settings = HttpPersistentSettings::for_session(&session);
        let stream = session.finish().await.ok()??;
        Some(ReusedHttpStream::from_reusable_stream(stream, settings))
    }
}

/// Reads the request and answers it.
async fn answer(session: &mut ServerSession) -> pingora_core::Result<()> {
    let path = session.req_header().uri.path().to_owned();
    let mut segments = path.split('/').skip(1);
    match (segments.next(), segments.next()) {
        (Some("upload"), _) => {
            let mut received = 0;
            while let Some(piece) = session.read_request_body().await? {
                received += piece.len();
            }
            respond(session, 200, json!({ "received": received }).to_string()).await
        }
        (Some("stream"), _) => stream(session).await,
        (Some("delay"), Some(number)) => {
            let millis = number.parse().unwrap_or(0).min(MAX_DELAY_MS);
            tokio::time::sleep(Duration::from_millis(millis)).await;
            respond(session, 200, json!({ "delayed_ms": millis }).to_string()).await
        }
        (Some("status"), Some(number)) => {
            let status = number.parse().ok().filter(|code| (200..600).contains(code));
            let status = status.unwrap_or(400);
            respond(session, status, json!({ "status": status }).to_string()).await
        }
        _ => echo(session).await,
    }
}

async fn echo(session: &mut ServerSession) -> pingora_core::Result<()> {
    /// Longer bodies are cut; what is cut is still read.
    const SHOWN: usize = 4096;
    let mut body = Vec::new();
    while let Some(piece) = session.read_request_body().await? {
        body.extend(piece.iter().take(SHOWN - body.len().min(SHOWN)));
    }
    let request = session.req_header();
    let field = |name| {
        let value = request.headers.get(name);
        value.map(|value| String::from_utf8_lossy(value.as_bytes()))
    };
    let mut text = json!({
        "method": request.method.as_str(),
        "target": String::from_utf8_lossy(request.raw_path()),
        "client": field("x-forwarded-for"),
    });
    if let Some(user) = field("x-user") {
        text["user"] = user.into();
    }
    text["body"] = String::from_utf8_lossy(&body).into();
    respond(session, 200, text.to_string()).await
}

async fn respond(
    session: &mut ServerSession,
    status: u16,
    text: String,
) -> pingora_core::Result<()> {
    let body = Bytes::from(text + "\n");
    let mut header = ResponseHeader::build(status, Some(2))?;
    header.insert_header(header::CONTENT_TYPE, "application/json")?;
    if !matches!(status, 204 | 304) {
        header.insert_header(header::CONTENT_LENGTH, body.len())?;
    }
    session.write_response_header(Box::new(header)).await?;
    if session.req_header().method != http::Method::HEAD && !matches!(status, 204 | 304) {
        session.write_response_body(body, true).await?;
    }
    session.finish_body().await
}

/// Server-sent events, one at a time.
async fn stream(session: &mut ServerSession) -> pingora_core::Result<()> {
    let mut header = ResponseHeader::build(200, Some(3))?;
    header.insert_header(header::CONTENT_TYPE, "text/event-stream")?;
    header.insert_header(header::CACHE_CONTROL, "no-store")?;
    header.insert_header(header::TRANSFER_ENCODING, "chunked")?;
    session.write_response_header(Box::new(header)).await?;
    for event in 1..=EVENTS {
        if event > 1 {
            tokio::time::sleep(EVENT_PAUSE).await;
        }
        let text = Bytes::from(format!("data: {event}\n\n"));
        session.write_response_body(text, false).await?;
    }
    session.finish_body().await
}

//! What became of every request, by kind, and the table that says so.

use std::fmt::{self, Write as _};
use std::io::{self, ErrorKind};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How many faults are told in words.
const TOLD: usize = 20;

/// A kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// HTTP/1.1 over connections that stay open.
    KeepAlive,
    /// The same with seconds between the requests, and so idle while the gateway is replaced.
    SeldomUsed,
    /// A new connection for every request.
    NewConnection,
    /// The same over TLS, connections kept.
    TlsKeepAlive,
    /// A new TLS connection for every request.
    TlsNewConnection,
    /// HTTP/2 over TLS, several streams at once.
    Http2,
    /// Messages that come back over a WebSocket.
    WebSocket,
    /// A response that takes many seconds.
    Download,
    /// The same over TLS.
    TlsDownload,
    /// The same as a stream of HTTP/2.
    Http2Download,
    /// A request that takes many seconds.
    Upload,
}

impl Kind {
    const ALL: [Self; 11] = [
        Self::KeepAlive,
        Self::SeldomUsed,
        Self::NewConnection,
        Self::TlsKeepAlive,
        Self::TlsNewConnection,
        Self::Http2,
        Self::WebSocket,
        Self::Download,
        Self::TlsDownload,
        Self::Http2Download,
        Self::Upload,
    ];

    fn title(self) -> &'static str {
        match self {
            Self::KeepAlive => "keep-alive",
            Self::SeldomUsed => "seldom used",
            Self::NewConnection => "new connection",
            Self::TlsKeepAlive => "TLS keep-alive",
            Self::TlsNewConnection => "TLS new connection",
            Self::Http2 => "HTTP/2",
            Self::WebSocket => "WebSocket",
            Self::Download => "slow download",
            Self::TlsDownload => "TLS slow download",
            Self::Http2Download => "HTTP/2 slow download",
            Self::Upload => "slow upload",
        }
    }
}

/// Why a request has no good answer, or a connection no good end.
#[derive(Debug)]
pub enum Fault {
    /// Nobody accepted the connection.
    Refused,
    /// The connection was reset.
    Reset(String),
    /// Anything else: no answer, a wrong one, a late one.
    Failed(String),
}

impl Fault {
    /// A fault in words.
    pub fn failed(why: impl fmt::Display) -> Self {
        Self::Failed(why.to_string())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("refused"),
            Self::Reset(why) => write!(f, "reset: {why}"),
            Self::Failed(why) => write!(f, "failed: {why}"),
        }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::ConnectionRefused => Self::Refused,
            ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe => {
                Self::Reset(error.to_string())
            }
            _ => Self::Failed(error.to_string()),
        }
    }
}

#[derive(Clone, Default)]
struct Row {
    ok: Vec<Duration>,
    failed: usize,
    refused: usize,
    reset: usize,
    retried: usize,
    closed: usize,
}

#[derive(Default)]
struct Counts {
    rows: [Row; Kind::ALL.len()],
    told: Vec<String>,
}

/// The counters of one run.
pub struct Tally {
    begun: Instant,
    counts: Mutex<Counts>,
}

impl Tally {
    /// Everything at zero.
    pub fn new() -> Self {
        Self {
            begun: Instant::now(),
            counts: Mutex::default(),
        }
    }

    fn change(&self, kind: Kind, change: impl FnOnce(&mut Row)) {
        change(&mut self.counts.lock().unwrap().rows[kind as usize]);
    }

    /// A request that began when it was due, and what became of it.
    pub fn request(&self, kind: Kind, took: Duration, outcome: Result<(), Fault>) {
        match outcome {
            Ok(()) => self.change(kind, |row| row.ok.push(took)),
            Err(fault) => self.fault(kind, &fault),
        }
    }

    /// A request without a good answer, or a connection that did not end in good order.
    pub fn fault(&self, kind: Kind, fault: &Fault) {
        let seconds = self.begun.elapsed().as_secs_f64();
        let line = format!("{seconds:.2} s, {}: {fault}", kind.title());
        let mut counts = self.counts.lock().unwrap();
        let row = &mut counts.rows[kind as usize];
        match fault {
            Fault::Refused => row.refused += 1,
            Fault::Reset(_) => row.reset += 1,
            Fault::Failed(_) => row.failed += 1,
        }
        if counts.told.len() < TOLD {
            counts.told.push(line);
        }
    }

    /// A request that the protocol itself gave back as not processed, and that is sent again.
    pub fn retried(&self, kind: Kind) {
        self.change(kind, |row| row.retried += 1);
    }

    /// A connection that the gateway ended in good order with nothing under way.
    pub fn closed(&self, kind: Kind) {
        self.change(kind, |row| row.closed += 1);
    }

    /// The kinds that had no good answer at all.
    pub fn silent(&self) -> Vec<Kind> {
        let counts = self.counts.lock().unwrap();
        let idle = |kind: &Kind| counts.rows[*kind as usize].ok.is_empty();
        Kind::ALL.into_iter().filter(idle).collect()
    }

    /// How many requests failed, connections were refused, and connections were reset.
    pub fn faults(&self) -> usize {
        let counts = self.counts.lock().unwrap();
        let faults = |row: &Row| row.failed + row.refused + row.reset;
        counts.rows.iter().map(faults).sum()
    }

    /// The table, and the first faults in words.
    pub fn render(&self) -> String {
        let counts = self.counts.lock().unwrap();
        let mut text = String::from(HEADING);
        for (kind, row) in Kind::ALL.into_iter().zip(&counts.rows) {
            line(&mut text, kind.title(), row.clone());
        }
        let all = counts.rows.iter().fold(Row::default(), |mut all, row| {
            all.ok.extend_from_slice(&row.ok);
            all.failed += row.failed;
            all.refused += row.refused;
            all.reset += row.reset;
            all.retried += row.retried;
            all.closed += row.closed;
            all
        });
        line(&mut text, "all", all);
        for told in &counts.told {
            text.push_str(told);
            text.push('\n');
        }
        text
    }
}

const HEADING: &str = "\
kind                 requests       ok  failed  refused  reset  retried  closed    p50 ms    p99 ms    max ms
-------------------- -------- -------- ------- -------- ------ -------- ------- --------- --------- ---------
";

fn line(text: &mut String, title: &str, mut row: Row) {
    row.ok.sort_unstable();
    let requests = row.ok.len() + row.failed + row.refused + row.reset;
    let ok = row.ok.len();
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "{title:<20} {requests:>8} {ok:>8} {:>7} {:>8} {:>6} {:>8} {:>7} {:>9.1} {:>9.1} {:>9.1}",
        row.failed,
        row.refused,
        row.reset,
        row.retried,
        row.closed,
        percentile(&row.ok, 50),
        percentile(&row.ok, 99),
        percentile(&row.ok, 100),
    );
}

/// Milliseconds; `sorted` in ascending order.
fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    let last = sorted.len().saturating_sub(1);
    let at = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted
        .get(at.min(last))
        .map_or(0.0, |took| took.as_secs_f64() * 1000.0)
}

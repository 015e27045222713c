//! One line for each request, written off the request path.
//!
//! A request formats its line straight into a buffer that its thread shares with nobody but the
//! writer. When the writer falls behind, or cannot write, lines are dropped and counted; a request
//! never waits for it.

mod clock;
mod escape;
mod json;
mod output;
mod redact;
mod text;
mod writer;

use std::net::IpAddr;
use std::time::{Duration, SystemTime};
use std::{io, sync::Arc, thread};

use crate::config::model;
use crate::metrics::Counter;

use self::output::Output;
use self::writer::Shared;

/// What is written about one request. It borrows everything.
///
/// What a client chose freely is bytes, and is written so that it cannot forge or break a line.
#[derive(Clone, Debug, Default)]
pub struct Record<'a> {
    /// The request's identifier, as in `X-Request-Id`.
    pub request_id: &'a str,
    /// The route's name; `none` when there was none.
    pub route: &'a str,
    /// The method.
    pub method: &'a str,
    /// The host asked for; empty when the client named none.
    pub host: &'a [u8],
    /// The path, and the query if there is one. Secrets in the query are not written.
    pub path_and_query: &'a [u8],
    /// The protocol, such as `HTTP/1.1`.
    pub protocol: &'a str,
    /// The status sent to the client.
    pub status_code: u16,
    /// From the request header read to the last byte of the response.
    pub duration: Duration,
    /// The client, as the trusted proxies tell it.
    pub client_ip: Option<IpAddr>,
    /// What the client calls itself.
    pub user_agent: Option<&'a [u8]>,
    /// The version of TLS; `None` on plain connections.
    pub tls_version: Option<&'a str>,
    /// The subject of the client's certificate, when it showed one.
    pub client_cert_subject: Option<&'a str>,
    /// Body bytes read from the client.
    pub bytes_in: u64,
    /// Body bytes sent to the client.
    pub bytes_out: u64,
    /// The upstream's name, when the route has one.
    pub backend_service: Option<&'a str>,
    /// The backend of the last attempt.
    pub backend: Option<&'a str>,
    /// What the backend took.
    pub backend_duration: Option<Duration>,
    /// Attempts after the first.
    pub retries: u32,
    /// Why there was not one more, where one was called for.
    pub retry_skipped: Option<&'a str>,
    /// How authentication ended.
    pub auth_status: AuthStatus,
    /// What limits of the rate took, if the request was held against any.
    pub rate_limit_duration: Option<Duration>,
    /// Why the request failed, when it did: a label of a closed set.
    pub error_type: Option<&'a str>,
}

/// How authentication ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AuthStatus {
    /// It was not asked for.
    #[default]
    None,
    /// The client proved who it is.
    Success,
    /// It did not.
    Failure,
}

impl AuthStatus {
    fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Success => "success",
            Self::Failure => "failure",
        }
    }
}

/// The access log: a writer thread and the buffers it empties.
pub struct AccessLog {
    format: model::LogFormat,
    shared: Arc<Shared>,
    writer: thread::Thread,
}

impl AccessLog {
    /// Opens the output and starts the writer.
    ///
    /// Threads do not survive a fork, so a daemon starts its log after it has become one.
    pub fn start(config: &model::AccessLog, dropped: Counter) -> io::Result<Self> {
        let output = Output::open(&config.output)?;
        Self::over(output, config, dropped)
    }

    fn over(output: Output, config: &model::AccessLog, dropped: Counter) -> io::Result<Self> {
        let shared = Arc::new(Shared::new(config.buffer_bytes, dropped));
        let of_writer = Arc::clone(&shared);
        let writer = thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || of_writer.run(output))?;
        Ok(Self {
            format: config.format,
            shared,
            writer: writer.thread().clone(),
        })
    }

    /// Adds a line. It neither waits nor allocates, apart from a buffer that grows to its size once.
    pub fn emit(&self, record: &Record<'_>) {
        let now = SystemTime::now();
        let line = |out: &mut Vec<u8>, clock: &mut clock::Clock| match self.format {
            model::LogFormat::Json => json::write(out, record, clock.at(now)),
            model::LogFormat::Text => text::write(out, record, clock.at(now)),
        };
        if self.shared.append(line) {
            self.writer.unpark();
        }
    }

    /// Opens a file again under its name, after it was rotated.
    pub fn reopen(&self) {
        self.shared.ask_to_reopen();
        self.writer.unpark();
    }

    /// Waits until everything asked for so far was done, but no longer than this. Says whether it was.
    pub fn flush(&self, at_most: Duration) -> bool {
        self.shared.wait_until_written(at_most, &self.writer)
    }
}

impl Drop for AccessLog {
    /// The writer writes what is left and ends. Nobody waits for it, since the output may be
    /// blocked for ever; who wants the last lines calls [`AccessLog::flush`].
    fn drop(&mut self) {
        self.shared.ask_to_end();
        self.writer.unpark();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step is a failed test")]
mod tests {
    use std::io::{BufRead, BufReader, Read};
    use std::os::unix::net::UnixStream;
    use std::path::Path;

    use super::*;
    use crate::metrics::Metrics;

    const LONG: Duration = Duration::from_secs(10);

    fn config(output: model::LogOutput, buffer_bytes: usize) -> model::AccessLog {
        model::AccessLog {
            format: model::LogFormat::Json,
            output,
            buffer_bytes,
        }
    }

    fn counter() -> Counter {
        Metrics::new("test").access_log_dropped().clone()
    }

    fn record(path: &[u8]) -> Record<'_> {
        Record {
            method: "GET",
            path_and_query: path,
            status_code: 200,
            ..Record::default()
        }
    }

    fn paths(file: &Path) -> Vec<String> {
        let text = std::fs::read_to_string(file).unwrap();
        let path = |line: &str| {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            value["path"].as_str().unwrap().to_owned()
        };
        text.lines().map(path).collect()
    }

    #[test]
    fn keeps_the_order_of_a_thread_and_loses_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("access.log");
        let dropped = counter();
        let config = config(model::LogOutput::File(file.clone()), 64 << 20);
        let log = AccessLog::start(&config, dropped.clone()).unwrap();
        thread::scope(|scope| {
            for thread in 0..4 {
                let log = &log;
                scope.spawn(move || {
                    for line in 0..5_000 {
                        log.emit(&record(format!("/{thread}/{line:05}").as_bytes()));
                    }
                });
            }
        });
        assert!(log.flush(LONG));
        let written = paths(&file);
        assert_eq!((written.len(), dropped.get()), (20_000, 0));
        for thread in 0..4 {
            let own = format!("/{thread}/");
            let of_thread = written.iter().filter(|path| path.starts_with(&own));
            assert!(of_thread.is_sorted());
        }
    }

    #[test]
    fn drops_and_counts_what_a_blocked_reader_leaves() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let dropped = counter();
        let config = config(model::LogOutput::Stdout, 64 << 10);
        let log = AccessLog::over(Output::stream(ours), &config, dropped.clone()).unwrap();
        let mut emitted = 0;
        while log.flush(Duration::from_millis(100)) {
            for _ in 0..100 {
                log.emit(&record(b"/fills/the/socket"));
                emitted += 1;
            }
        }
        for _ in 0..1_000 {
            log.emit(&record(b"/blocked"));
            emitted += 1;
        }
        assert!(dropped.get() > 0);
        let reader = thread::spawn(move || BufReader::new(theirs).lines().count() as u64);
        assert!(log.flush(LONG));
        drop(log);
        assert_eq!(reader.join().unwrap() + dropped.get(), emitted);
    }

    #[test]
    fn survives_a_closed_pipe() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        let dropped = counter();
        let config = config(model::LogOutput::Stdout, 1 << 20);
        let log = AccessLog::over(Output::stream(ours), &config, dropped.clone()).unwrap();
        log.emit(&record(b"/a"));
        assert!(log.flush(LONG));
        log.emit(&record(b"/b"));
        assert!(log.flush(LONG));
        assert_eq!(dropped.get(), 2);
    }

    #[test]
    fn follows_a_rotated_file() {
        let folder = tempfile::tempdir().unwrap();
        let (file, old) = (folder.path().join("a.log"), folder.path().join("a.log.1"));
        let config = config(model::LogOutput::File(file.clone()), 1 << 20);
        let log = AccessLog::start(&config, counter()).unwrap();
        log.emit(&record(b"/before"));
        assert!(log.flush(LONG));
        std::fs::rename(&file, &old).unwrap();
        log.reopen();
        assert!(log.flush(LONG));
        log.emit(&record(b"/after"));
        assert!(log.flush(LONG));
        assert_eq!(
            (paths(&old), paths(&file)),
            (vec!["/before".to_owned()], vec!["/after".to_owned()])
        );
    }

    #[test]
    fn what_is_left_is_written_when_the_log_goes() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let config = config(model::LogOutput::Stdout, 1 << 20);
        let log = AccessLog::over(Output::stream(ours), &config, counter()).unwrap();
        log.emit(&record(b"/last"));
        drop(log);
        let mut written = String::new();
        theirs.read_to_string(&mut written).unwrap();
        assert!(written.contains("\"path\":\"/last\""));
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_an_error_at_once() {
        let config = config(
            model::LogOutput::File("/nowhere/at/all.log".into()),
            1 << 20,
        );
        assert!(AccessLog::start(&config, counter()).is_err());
    }
}

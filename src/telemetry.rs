//! The process log: its formats, its levels, and what a panic says.
//!
//! Lines go to standard error. Those about what clients do wrong are limited, and so are Pingora's,
//! which reports it as errors of its own: whoever sends garbage must not be able to fill a disk.

use std::collections::BTreeMap;
use std::panic::{self, PanicHookInfo};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use std::{fmt::Write as _, io::Write as _, thread};

use arc_swap::ArcSwap;
use log::{LevelFilter, Log, Metadata, Record, SetLoggerError};

/// Overrides of the configured level, in the syntax of `env_logger`.
const FILTER_VARIABLE: &str = "RUST_LOG";

/// The target of lines about requests that were refused before they were one.
pub const REFUSED: &str = "client::refused";
/// The target of lines about connections without a good PROXY header.
pub const PROXY_PROTOCOL: &str = "client::proxy_protocol";
/// The target of lines about handshakes that failed.
pub const HANDSHAKE: &str = "client::handshake";
/// The target of lines about calls on the admin listener that were refused.
pub const ADMIN: &str = "client::admin";

/// The library that the gateway is built on.
const LIBRARY: &str = "pingora";
/// The beginnings of the targets that are limited: the library's, and those above.
const LIMITED_TARGETS: [&str; 2] = [LIBRARY, "client::"];

/// Lines a target may write in a window: enough to see what is going on.
const LINES_A_WINDOW: u32 = 10;
const WINDOW: Duration = Duration::from_secs(1);

/// Targets that are counted apart; further ones share a window.
const TARGETS: usize = 64;

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One readable line.
    Text,
    /// One JSON object a line.
    Json,
}

/// The logger of the process, once it is started.
static LOGGER: OnceLock<&'static Limited> = OnceLock::new();

/// Starts the process log. `RUST_LOG` overrides the level.
pub fn start(level: LevelFilter, format: Format) -> Result<(), SetLoggerError> {
    let inner = logger(level, format);
    log::set_max_level(inner.filter());
    // It lives as long as the process, and there is one of it.
    let logger: &'static Limited = Box::leak(Box::new(Limited {
        format,
        inner: ArcSwap::from_pointee(inner),
        limiter: Mutex::default(),
    }));
    log::set_logger(logger)?;
    // Whoever was first is the logger; `set_logger` has made sure that this is it.
    let _ = LOGGER.set(logger);
    Ok(())
}

/// Changes the level of the running log. `RUST_LOG` overrides this one, too.
pub fn set_level(level: LevelFilter) {
    if let Some(logger) = LOGGER.get() {
        let inner = self::logger(level, logger.format);
        log::set_max_level(inner.filter());
        logger.inner.store(Arc::new(inner));
    }
}

fn logger(level: LevelFilter, format: Format) -> env_logger::Logger {
    let mut builder = env_logger::Builder::new();
    builder.filter_level(level);
    builder.filter_module(LIBRARY, level.min(LevelFilter::Error));
    if let Ok(filters) = std::env::var(FILTER_VARIABLE) {
        builder.parse_filters(&filters);
    }
    builder.format(move |out, record| out.write_all(line(format, record).as_bytes()));
    builder.build()
}

/// Makes every panic one line of the log and one call of `count`.
pub fn log_panics(count: impl Fn() + Send + Sync + 'static) {
    panic::set_hook(Box::new(move |info| {
        count();
        log::error!("{}", describe(info));
    }));
}

fn describe(info: &PanicHookInfo<'_>) -> String {
    let payload = info.payload();
    let message = payload.downcast_ref::<&str>().copied();
    let message = message.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let message = message.unwrap_or("no message");
    let current = thread::current();
    let thread = current.name().unwrap_or("unnamed");
    match info.location() {
        Some(place) => format!("panic at {place} in thread {thread}: {message}"),
        None => format!("panic in thread {thread}: {message}"),
    }
}

fn line(format: Format, record: &Record<'_>) -> String {
    let time = humantime::format_rfc3339_millis(SystemTime::now());
    let (level, target) = (record.level(), record.target());
    match format {
        Format::Json => {
            let line = serde_json::json!({
                "timestamp": time.to_string(),
                "level": level.as_str(),
                "target": target,
                "message": record.args().to_string(),
            });
            format!("{line}\n")
        }
        Format::Text => {
            let mut line = format!("{time} {level:5} {target}: ");
            push_printable(&mut line, &record.args().to_string());
            line.push('\n');
            line
        }
    }
}

/// Appends text with its control characters escaped, so that it stays on its line and moves no
/// terminal.
fn push_printable(line: &mut String, text: &str) {
    for c in text.chars() {
        if c.is_control() {
            // Writing to a string cannot fail.
            let _ = write!(line, "{}", c.escape_default());
        } else {
            line.push(c);
        }
    }
}

/// The log with a limit on the lines of some targets.
struct Limited {
    format: Format,
    inner: ArcSwap<env_logger::Logger>,
    limiter: Mutex<Limiter>,
}

impl Log for Limited {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.inner.load().enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !is_limited(record.target()) {
            return self.inner.load().log(record);
        }
        if !self.inner.load().matches(record) {
            return;
        }
        let mut limiter = self.limiter.lock().unwrap_or_else(PoisonError::into_inner);
        let verdict = limiter.admit(record.target(), Instant::now());
        drop(limiter);
        let Verdict::Write { left_out } = verdict else {
            return;
        };
        if left_out > 0 {
            let mut summary = Record::builder();
            summary.level(record.level()).target(record.target());
            let args = format_args!("{left_out} further lines were left out");
            self.inner.load().log(&summary.args(args).build());
        }
        self.inner.load().log(record);
    }

    fn flush(&self) {
        self.inner.load().flush();
    }
}

fn is_limited(target: &str) -> bool {
    LIMITED_TARGETS
        .iter()
        .any(|beginning| target.starts_with(beginning))
}

/// Counts the lines of each target in windows of time.
#[derive(Default)]
struct Limiter {
    windows: BTreeMap<String, Window>,
}

struct Window {
    began: Instant,
    written: u32,
    left_out: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// The line is written, after a word about those left out before it.
    Write { left_out: u64 },
    /// The line is only counted.
    LeaveOut,
}

impl Limiter {
    fn admit(&mut self, target: &str, now: Instant) -> Verdict {
        let known = self.windows.contains_key(target);
        let key = if known || self.windows.len() < TARGETS {
            target
        } else {
            ""
        };
        let window = self.windows.entry(key.to_owned()).or_insert(Window {
            began: now,
            written: 0,
            left_out: 0,
        });
        if now.duration_since(window.began) >= WINDOW {
            window.began = now;
            window.written = 0;
        }
        if window.written >= LINES_A_WINDOW {
            window.left_out += 1;
            return Verdict::LeaveOut;
        }
        window.written += 1;
        let left_out = std::mem::take(&mut window.left_out);
        Verdict::Write { left_out }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step is a failed test")]
mod tests {
    use log::Level;

    use super::*;

    #[test]
    fn what_clients_do_wrong_is_limited() {
        for target in [
            REFUSED,
            PROXY_PROTOCOL,
            HANDSHAKE,
            ADMIN,
            "pingora_core::apps",
        ] {
            assert!(is_limited(target), "{target}");
        }
        assert!(!is_limited("edge_gateway::server"));
    }

    fn written(format: Format, message: &str) -> String {
        let args = format_args!("{message}");
        let builder = &mut Record::builder();
        let record = builder
            .level(Level::Error)
            .target("gateway::reload")
            .args(args);
        line(format, &record.build())
    }

    #[test]
    fn json_lines_have_the_keys_and_stay_one_line() {
        let line = written(Format::Json, "bad \"config\"\nnext");
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["level"], "ERROR");
        assert_eq!(value["target"], "gateway::reload");
        assert_eq!(value["message"], "bad \"config\"\nnext");
        assert!(humantime::parse_rfc3339(value["timestamp"].as_str().unwrap()).is_ok());
        assert_eq!(line.matches('\n').count(), 1);
    }

    #[test]
    fn text_lines_carry_no_control_characters() {
        let line = written(Format::Text, "from a client: \x1b[2J\r\nERROR forged");
        assert!(
            line.ends_with("ERROR gateway::reload: from a client: \\u{1b}[2J\\r\\nERROR forged\n")
        );
    }

    #[test]
    fn a_panic_is_described_by_place_thread_and_message() {
        let (told, heard) = std::sync::mpsc::channel();
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| drop(told.send(describe(info)))));
        let doomed = thread::Builder::new().name("doomed".to_owned());
        let ended = doomed.spawn(|| panic!("no {}", "luck")).unwrap().join();
        panic::set_hook(before);
        assert!(ended.is_err());
        let lines: Vec<_> = heard.try_iter().collect();
        let told = |line: &String| {
            line.starts_with("panic at src/telemetry.rs:")
                && line.ends_with(" in thread doomed: no luck")
        };
        assert!(lines.iter().any(told), "{lines:?}");
    }

    #[test]
    fn the_surplus_of_a_target_is_counted_and_told_later() {
        let mut limiter = Limiter::default();
        let start = Instant::now();
        for _ in 0..LINES_A_WINDOW {
            assert_eq!(
                limiter.admit("pingora_core", start),
                Verdict::Write { left_out: 0 }
            );
        }
        for _ in 0..5 {
            assert_eq!(limiter.admit("pingora_core", start), Verdict::LeaveOut);
        }
        assert_eq!(
            limiter.admit("pingora_load_balancing", start),
            Verdict::Write { left_out: 0 }
        );
        let later = start + WINDOW;
        assert_eq!(
            limiter.admit("pingora_core", later),
            Verdict::Write { left_out: 5 }
        );
        assert_eq!(
            limiter.admit("pingora_core", later),
            Verdict::Write { left_out: 0 }
        );
    }

    #[test]
    fn invented_targets_do_not_grow_the_table() {
        let mut limiter = Limiter::default();
        let now = Instant::now();
        let verdicts = (0..1000).map(|n| limiter.admit(&format!("pingora_{n}"), now));
        let left_out = verdicts
            .filter(|verdict| *verdict == Verdict::LeaveOut)
            .count();
        assert_eq!(limiter.windows.len(), TARGETS + 1);
        assert_eq!(left_out, 1000 - TARGETS - LINES_A_WINDOW as usize);
    }
}

//! Checks what concerns the process and its listeners.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;

use super::Checker;
use crate::config::file::{self, File};
use crate::config::model::{
    AccessLog, Admin, Limits, Listener, Log, LogFormat, LogOutput, Maintenance, MaxMemory, Metrics,
    Server, Shutdown,
};
use crate::config::problem::{Invalid, quote};
use crate::config::scalar::Secret;
use crate::config::tree::Path;

impl Checker<'_> {
    pub(super) fn listeners(&mut self, file: &File) -> Vec<Listener> {
        let root = Path::Root;
        let at = root.key("listeners");
        let Some(list) = &file.listeners else {
            return vec![listener(&file::Listener::default())];
        };
        if list.is_empty() {
            self.refuse(&at, "is empty, expected at least one listener");
        }
        let mut listeners: Vec<Listener> = Vec::new();
        for (index, written) in list.iter() {
            let item = at.item(index);
            let mut listener = listener(written);
            listener.tls = self.listener_tls(written, &item);
            listener.https_redirect = self.https_redirect(written, &item);
            if let Some(proxy_protocol) = &written.proxy_protocol
                && proxy_protocol.trusted.is_empty()
            {
                let key = item.key("proxy_protocol");
                self.refuse(
                    &key.key("trusted"),
                    "is empty, expected at least one network",
                );
            }
            if let Some(name) = &written.name {
                let label = self.accept(&item.key("name"), label(name));
                if label.is_some() && listeners.iter().any(|other| other.name == listener.name) {
                    let shown = self.shown(&item.key("name"), name);
                    self.refuse(
                        &item.key("name"),
                        format!("{shown} is taken, expected a unique name"),
                    );
                }
            }
            if listeners
                .iter()
                .any(|other| overlap(other.address, listener.address))
            {
                let shown = self.shown(&item.key("address"), &listener.address.to_string());
                let what = format!("{shown} is taken by another listener, expected a free one");
                self.refuse(&item.key("address"), what);
            }
            listeners.push(listener);
        }
        listeners
    }

    pub(super) fn admin(&mut self, file: &File, listeners: &[Listener]) -> Option<Admin> {
        if !file.admin.enabled {
            return None;
        }
        let address = file.admin.address.0;
        if listeners
            .iter()
            .any(|listener| overlap(listener.address, address))
        {
            let root = Path::Root;
            let admin = root.key("admin");
            let shown = self.shown(&admin.key("address"), &address.to_string());
            let what = format!("{shown} is taken by a listener, expected a free one");
            self.refuse(&admin.key("address"), what);
        }
        Some(Admin {
            address,
            token: self.token(file.admin.token.as_ref()),
        })
    }

    fn token(&mut self, written: Option<&Secret>) -> Option<Secret> {
        let token = written?;
        let text = token.reveal();
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            let root = Path::Root;
            let admin = root.key("admin");
            // Not a word of it may be shown.
            let what = "is not accepted, expected visible ASCII characters, at least one";
            self.refuse(&admin.key("token"), what);
        }
        Some(token.clone())
    }

    pub(super) fn access_log(&mut self, log: &file::AccessLog) -> Option<AccessLog> {
        let root = Path::Root;
        let at = root.key("access_log");
        let output = match log.output.as_str() {
            "" => {
                self.refuse(
                    &at.key("output"),
                    "is empty, expected `stdout`, `stderr` or a path",
                );
                return None;
            }
            "stdout" => LogOutput::Stdout,
            "stderr" => LogOutput::Stderr,
            path => LogOutput::File(self.source.base.join(path)),
        };
        // The bound of the key keeps it far below what a machine can address.
        let buffer_bytes = log.buffer.0 as usize;
        log.enabled.then(|| AccessLog {
            format: log_format(log.format),
            output,
            buffer_bytes,
        })
    }

    pub(super) fn metrics(&mut self, metrics: &file::Metrics) -> Option<Metrics> {
        let root = Path::Root;
        let namespace = &metrics.namespace;
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let good = namespace.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && namespace.chars().all(word);
        let expected = "letters, digits and `_`, the first not a digit";
        let refused = Invalid::new(
            format!("{} is no prefix for metrics", quote(namespace)),
            expected,
        );
        let namespace = good.then(|| namespace.clone()).ok_or(refused);
        let metrics = root.key("metrics");
        Some(Metrics {
            namespace: self.accept(&metrics.key("namespace"), namespace)?,
        })
    }
}

fn listener(written: &file::Listener) -> Listener {
    let address = written.address.0;
    let name = written.name.clone().unwrap_or_else(|| address.to_string());
    let metrics_allow = written
        .metrics
        .allow
        .iter()
        .map(|(_, network)| network.0)
        .collect();
    let proxy_protocol = written
        .proxy_protocol
        .iter()
        .flat_map(|written| written.trusted.iter())
        .map(|(_, network)| network.0)
        .collect();
    Listener {
        name: Arc::from(name),
        address,
        health: written.health,
        h2c: written.h2c,
        metrics_allow,
        tls: None,
        https_redirect: None,
        proxy_protocol,
    }
}

pub(super) fn server(written: &file::Server, base: &std::path::Path) -> Option<Server> {
    let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let threads = match written.threads {
        Some(threads) => NonZeroUsize::new(threads as usize)?,
        None => cores,
    };
    Some(Server {
        threads,
        watch: written.watch,
        upgrade_socket: written.upgrade_socket.as_ref().map(|path| base.join(path)),
        upgrade_timeout: written.upgrade_timeout.0,
    })
}

pub(super) fn limits(written: &file::Limits) -> Limits {
    // The bounds of the sizes keep them far below what a machine can address.
    Limits {
        handshake_timeout: written.handshake_timeout.0,
        request_header_timeout: written.request_header_timeout.0,
        request_header_bytes: written.request_header_size.0 as usize,
        request_header_fields: written.request_header_count as usize,
        uri_bytes: written.uri_size.0 as usize,
        request_body_timeout: written.request_body_timeout.0,
        request_body_min_rate: written.request_body_min_rate.0,
        response_write_timeout: written.response_write_timeout.0,
        keepalive_timeout: written.keepalive_timeout.0,
        max_connections: written.max_connections as usize,
        max_requests: written.max_requests,
        max_memory: match &written.max_memory {
            None => MaxMemory::Auto,
            Some(limit) => limit.0.map_or(MaxMemory::Unlimited, MaxMemory::Bytes),
        },
        max_connections_per_client: written.max_connections_per_client as usize,
        strict_paths: written.strict_paths,
    }
}

pub(super) fn shutdown(written: &file::Shutdown) -> Shutdown {
    Shutdown {
        delay: written.delay.0,
        drain_timeout: written.drain_timeout.0,
        keepalive_grace: written.keepalive_grace.0.min(written.drain_timeout.0),
    }
}

pub(super) fn maintenance(written: &file::Maintenance) -> Maintenance {
    Maintenance {
        enabled: written.enabled,
        retry_after: written.retry_after.0,
        message: written.message.clone(),
    }
}

pub(super) fn log(written: &file::Log) -> Log {
    let level = match written.level {
        file::Level::Off => log::LevelFilter::Off,
        file::Level::Error => log::LevelFilter::Error,
        file::Level::Warn => log::LevelFilter::Warn,
        file::Level::Info => log::LevelFilter::Info,
        file::Level::Debug => log::LevelFilter::Debug,
        file::Level::Trace => log::LevelFilter::Trace,
    };
    Log {
        level,
        format: log_format(written.format),
    }
}

fn log_format(written: file::LogFormat) -> LogFormat {
    match written {
        file::LogFormat::Text => LogFormat::Text,
        file::LogFormat::Json => LogFormat::Json,
    }
}

/// A name that metrics and logs carry.
pub(super) fn label(name: &str) -> Result<(), Invalid> {
    const MAX_CHARS: usize = 128;
    if !name.is_empty() && name.chars().count() <= MAX_CHARS && !name.chars().any(char::is_control)
    {
        return Ok(());
    }
    let expected = format!("1 to {MAX_CHARS} characters, none of them a control character");
    Err(Invalid::new(
        format!("{} is no name", quote(name)),
        expected,
    ))
}

/// Whether two addresses cannot be bound together. Port 0 is a free one each time.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let same_host = a.ip() == b.ip()
        || a.is_ipv4() == b.is_ipv4() && (a.ip().is_unspecified() || b.ip().is_unspecified());
    a.port() != 0 && a.port() == b.port() && same_host
}

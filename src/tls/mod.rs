//! TLS: certificates, keys and authorities from files, which of them a client gets, session tickets,
//! what a handshake said, and what backends must prove.
//!
//! Everything is read and checked before it is used. A [`Terminator`] is whole and never changes;
//! files that changed make a new one.

pub mod backend;
mod client_cert;
mod facts;
mod names;
mod pem;
mod site;
mod terminator;
mod tickets;
mod watch;

pub use client_cert::ClientCert;
pub use facts::TlsFacts;
pub use terminator::{Expiry, Terminator};
pub use watch::{Change, Watch};

use crate::config::{Config, Fault};

/// What the files that a configuration names are like.
#[derive(Debug, Default)]
pub struct Report {
    /// What cannot be used.
    pub faults: Vec<Fault>,
    /// What can, and is odd: one sentence each.
    pub warnings: Vec<String>,
}

/// Reads every file that the listeners name, as a start would.
pub fn check(config: &Config) -> Report {
    let mut report = Report::default();
    for (index, listener) in config.listeners.iter().enumerate() {
        let Some(tls) = &listener.tls else { continue };
        match Terminator::load(tls) {
            Ok(terminator) => report.warnings.extend(
                terminator
                    .warnings(std::time::SystemTime::now())
                    .into_iter()
                    .map(|warning| format!("listeners[{index}].tls.{warning}")),
            ),
            Err(faults) => report.faults.extend(at_listener(index, faults)),
        }
    }
    report
}

/// The faults with the whole of their keys.
pub fn at_listener(index: usize, faults: Vec<Fault>) -> impl Iterator<Item = Fault> {
    faults.into_iter().map(move |fault| Fault {
        key: format!("listeners[{index}].tls.{}", fault.key),
        ..fault
    })
}

/// Makes aws-lc-rs the process's own, before a library can choose another.
pub fn install_provider() {
    // An error means that there is one already, which then is this one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

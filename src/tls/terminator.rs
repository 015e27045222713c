//! Everything a listener needs for handshakes, read from its files at one time.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use http::HeaderValue;
use rustls::{CipherSuite, ServerConfig};

use super::names::Table;
use super::pem;
use super::site::{Common, Policy, Site};
use super::tickets::TicketKeys;
use super::watch::Stamps;
use crate::config::Fault;
use crate::config::model::{ListenerTls, Tickets};

/// The certificates of a listener, ready for handshakes.
pub struct Terminator {
    source: ListenerTls,
    /// Never empty; the first is the default.
    sites: Vec<Site>,
    names: Table,
    several_policies: bool,
    tickets: Option<Arc<TicketKeys>>,
    /// Names that an earlier certificate has: the certificate, the name, and who has it.
    hidden: Vec<(usize, Box<str>, usize)>,
    pub(super) stamps: Stamps,
}

/// When a certificate ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// The name it is used for; empty for a default certificate without names.
    pub server_name: Box<str>,
    /// Seconds since 1970.
    pub not_after: i64,
}

impl Terminator {
    /// Reads and checks all files. Keys of faults begin below the listener's `tls`.
    pub fn load(source: &ListenerTls) -> Result<Self, Vec<Fault>> {
        // Before the files: what changes while they are read is seen as a change afterwards.
        let stamps = Stamps::of(source);
        let (tickets, mut faults) = match tickets(&source.tickets) {
            Ok(tickets) => (tickets.map(Arc::new), Vec::new()),
            Err(fault) => (None, vec![fault]),
        };
        let http2 = source.http2;
        let common = Common::new(source.tls12, http2, tickets.clone());
        let mut sites = Vec::with_capacity(source.certificates.len());
        for (index, files) in source.certificates.iter().enumerate() {
            match Site::load(files, &format!("certificates[{index}]"), &common) {
                Ok(site) => sites.push(site),
                Err(found) => faults.extend(found),
            }
        }
        if !faults.is_empty() {
            // One bundle that several certificates share is one fault.
            faults.dedup();
            return Err(faults);
        }
        let mut names = Table::default();
        let mut hidden = Vec::new();
        for (index, site) in sites.iter().enumerate() {
            for name in &site.names {
                if let Some(owner) = names.claim(name, index) {
                    hidden.push((index, name.clone(), owner));
                }
            }
        }
        Ok(Self {
            several_policies: sites
                .windows(2)
                .any(|pair| pair[0].policy != pair[1].policy),
            source: source.clone(),
            sites,
            names,
            tickets,
            hidden,
            stamps,
        })
    }

    /// Reads the files again.
    pub fn reload(&self) -> Result<Self, Vec<Fault>> {
        Self::load(&self.source)
    }

    /// What the files were read for.
    pub fn source(&self) -> &ListenerTls {
        &self.source
    }

    /// Takes over what has to outlive a reload: the random keys of tickets.
    pub fn inherit(&self, previous: &Self) {
        if let (Some(own), Some(previous)) = (&self.tickets, &previous.tickets) {
            own.inherit(previous);
        }
    }

    /// Changes ticket keys that have served their time.
    pub fn rotate(&self, now: SystemTime) {
        if let Some(tickets) = &self.tickets {
            tickets.rotate(now);
        }
    }

    /// The settings for a client that asks for this name and offers these ciphers.
    pub fn config(&self, server_name: Option<&str>, offered: &[CipherSuite]) -> Arc<ServerConfig> {
        Arc::clone(self.site(server_name).config(offered))
    }

    /// What clients that ask for this name have to show.
    pub(super) fn policy(&self, server_name: Option<&str>) -> &Policy {
        &self.site(server_name).policy
    }

    /// Whether not all clients have to show the same.
    pub(super) fn several_policies(&self) -> bool {
        self.several_policies
    }

    /// The `Strict-Transport-Security` of responses.
    pub fn hsts(&self) -> Option<&HeaderValue> {
        self.source.hsts.as_ref()
    }

    fn site(&self, server_name: Option<&str>) -> &Site {
        let found = server_name.and_then(|name| {
            if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
                self.names.find(&name.to_ascii_lowercase())
            } else {
                self.names.find(name)
            }
        });
        &self.sites[found.unwrap_or(0)]
    }

    /// When each certificate ends, by the names that it is used for.
    pub fn expiries(&self) -> Vec<Expiry> {
        let mut expiries = Vec::new();
        for (index, site) in self.sites.iter().enumerate() {
            let before = expiries.len();
            let own = site.names.iter().filter(|name| self.owns(index, name));
            expiries.extend(own.map(|name| Expiry {
                server_name: name.clone(),
                not_after: site.validity.1,
            }));
            if index == 0 && expiries.len() == before {
                expiries.push(Expiry {
                    server_name: "".into(),
                    not_after: site.validity.1,
                });
            }
        }
        expiries
    }

    fn owns(&self, index: usize, name: &str) -> bool {
        let hides =
            |(hidden, other, _): &(usize, Box<str>, usize)| *hidden == index && **other == *name;
        !self.hidden.iter().any(hides)
    }

    /// What is odd about the certificates, one sentence each.
    pub fn warnings(&self, now: SystemTime) -> Vec<String> {
        let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| {
            i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
        });
        let mut warnings = Vec::new();
        for (index, site) in self.sites.iter().enumerate() {
            let key = format!("certificates[{index}].cert");
            if site.validity.1 < now {
                warnings.push(format!("{key}: the certificate has expired"));
            }
            if site.validity.0 > now {
                warnings.push(format!("{key}: the certificate is not valid yet"));
            }
            if !site.chain_in_order {
                warnings.push(format!(
                    "{key}: the certificates are not in order, expected each to be issued by the \
                     next"
                ));
            }
        }
        for (index, name, owner) in &self.hidden {
            warnings.push(format!(
                "certificates[{index}].cert: `{name}` is also a name of certificates[{owner}], \
                 which is used for it"
            ));
        }
        warnings
    }
}

fn tickets(written: &Tickets) -> Result<Option<TicketKeys>, Fault> {
    let fault = |path: &Path, what| Fault {
        key: "session_tickets.file".to_owned(),
        path: Some(path.to_owned()),
        what,
    };
    match written {
        Tickets::Off => Ok(None),
        Tickets::Random => TicketKeys::random(SystemTime::now())
            .map(Some)
            .map_err(|what| Fault {
                key: "session_tickets".to_owned(),
                path: None,
                what,
            }),
        Tickets::File(path) => pem::read(path)
            .and_then(|text| TicketKeys::parse(&text))
            .map(Some)
            .map_err(|what| fault(path, what)),
    }
}

impl fmt::Debug for Terminator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Terminator")
            .field("certificates", &self.sites.len())
            .finish_non_exhaustive()
    }
}

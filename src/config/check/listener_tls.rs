//! Checks what a listener says about TLS. The files themselves are read by `tls`.

use http::HeaderValue;

use super::Checker;
use super::idle::DISABLED;
use crate::config::file::{self, ClientAuthMode, HttpsRedirect, TlsVersion};
use crate::config::model::{CertificateFiles, ClientAuth, ListenerTls, Tickets};
use crate::config::problem::quote;
use crate::config::tree::{Node, Path};

impl Checker<'_> {
    /// The listener's TLS. `None` when there is none, or a problem was told.
    pub(super) fn listener_tls(
        &mut self,
        written: &file::Listener,
        at: &Path<'_>,
    ) -> Option<ListenerTls> {
        let tls = written.tls.as_ref()?;
        let at = at.key("tls");
        let list = at.key("certificates");
        if tls.certificates.is_empty() {
            self.refuse(&list, "is empty, expected at least one certificate");
        }
        let default = self.client_auth(tls.client_auth.as_ref(), &at, "client_auth.ca".into());
        let mut certificates = Vec::new();
        for (index, one) in tls.certificates.iter() {
            let item = list.item(index);
            self.file_name(&item.key("cert"), &one.cert);
            self.file_name(&item.key("key"), &one.key);
            let client_auth = match &one.client_auth {
                Some(own) => {
                    let key = format!("certificates[{index}].client_auth.ca");
                    self.client_auth(Some(own), &item, key)
                }
                None => default.clone(),
            };
            certificates.push(CertificateFiles {
                cert: self.source.base.join(&one.cert),
                key: self.source.base.join(&one.key),
                client_auth,
            });
        }
        Some(ListenerTls {
            certificates,
            tls12: matches!(tls.min_version, TlsVersion::V1_2),
            tickets: self.tickets(&tls.session_tickets, &at.key("session_tickets")),
            hsts: tls.hsts.as_ref().map(hsts),
            http2: tls.http2,
        })
    }

    fn client_auth(
        &mut self,
        written: Option<&file::ClientAuth>,
        at: &Path<'_>,
        ca_key: String,
    ) -> Option<ClientAuth> {
        let written = written?;
        let at = at.key("client_auth");
        let ca_at = at.key("ca");
        let required = match written.mode {
            ClientAuthMode::Required => true,
            ClientAuthMode::Optional => false,
            ClientAuthMode::None => {
                if self.is_written(&ca_at) {
                    self.refuse(&ca_at, "stands beside `mode: none`, expected no `ca`");
                }
                return None;
            }
        };
        let Some(ca) = &written.ca else {
            if self.is_whole(&ca_at) {
                self.refuse(
                    &ca_at,
                    "is missing, expected a PEM file with the authorities",
                );
            }
            return None;
        };
        self.file_name(&ca_at, ca);
        Some(ClientAuth {
            required,
            ca: self.source.base.join(ca),
            ca_key,
        })
    }

    fn tickets(&mut self, written: &file::SessionTickets, at: &Path<'_>) -> Tickets {
        if !written.enabled {
            self.idle(at, &["file"], DISABLED);
            return Tickets::Off;
        }
        match &written.file {
            None => Tickets::Random,
            Some(file) => {
                self.file_name(&at.key("file"), file);
                Tickets::File(self.source.base.join(file))
            }
        }
    }

    fn file_name(&mut self, at: &Path<'_>, name: &str) {
        let written = self.source.tree.at(at).and_then(Node::shown);
        if let Some(written) = written.filter(|written| written.starts_with("file:")) {
            let what = format!(
                "{} stands for what is in that file, expected its path: leave `file:` out",
                quote(written)
            );
            self.refuse(at, what);
        } else if name.is_empty() {
            self.refuse(at, "is empty, expected the path of a file");
        }
    }

    /// The port that plain requests are sent to; only for a listener without TLS.
    pub(super) fn https_redirect(
        &mut self,
        written: &file::Listener,
        at: &Path<'_>,
    ) -> Option<u16> {
        let port = match &written.https_redirect {
            HttpsRedirect::Enabled(false) => return None,
            HttpsRedirect::Enabled(true) => 443,
            HttpsRedirect::To(to) => to.port,
        };
        if written.tls.is_some() {
            self.refuse(
                &at.key("https_redirect"),
                "stands beside `tls`, expected it on a plain listener",
            );
        }
        Some(port)
    }
}

/// RFC 6797 section 6.1.
fn hsts(written: &file::Hsts) -> HeaderValue {
    let mut value = format!("max-age={}", written.max_age.0.as_secs());
    if written.include_subdomains {
        value.push_str("; includeSubDomains");
    }
    if written.preload {
        value.push_str("; preload");
    }
    // Letters, digits and signs that every header may hold, so the empty value is never used.
    HeaderValue::try_from(value).unwrap_or_else(|_| HeaderValue::from_static(""))
}

//! Certificates of clients as identities. The handshake has verified them.

use std::sync::Arc;

use super::identity::{Known, words};
use crate::config::model;
use crate::metrics::AuthError;
use crate::tls::ClientCert;

/// Which certificates are accepted, and what they stand for.
#[derive(Debug)]
pub struct ClientCerts {
    config: model::ClientCertScheme,
}

impl ClientCerts {
    /// By these rules.
    pub fn new(config: model::ClientCertScheme) -> Self {
        Self { config }
    }

    /// Who the certificate stands for; `None` without one.
    pub fn judge(&self, shown: Option<&ClientCert>) -> Result<Option<Arc<Known>>, AuthError> {
        let Some(shown) = shown else {
            return Ok(None);
        };
        let matches = |expression: &Option<regex::Regex>, text: &str| {
            expression.as_ref().is_none_or(|one| one.is_match(text))
        };
        if !matches(&self.config.subject, &shown.subject)
            || !matches(&self.config.names, &shown.names)
        {
            return Err(AuthError::WrongCertificate);
        }
        Ok(Some(Arc::new(Known {
            subject: shown.subject.clone(),
            scopes: words(&self.config.scopes),
            roles: words(&self.config.roles),
            expires: None,
        })))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

    use super::*;

    fn certs(subject: Option<&str>, names: Option<&str>) -> ClientCerts {
        let regex = |text: &str| regex::Regex::new(text).unwrap();
        ClientCerts::new(model::ClientCertScheme {
            subject: subject.map(regex),
            names: names.map(regex),
            scopes: vec!["pay".to_owned()],
            roles: Vec::new(),
        })
    }

    fn shown() -> ClientCert {
        ClientCert {
            subject: "CN=app,OU=payments".into(),
            names: "DNS:app.test".into(),
            fingerprint: "00".into(),
            serial: "01".into(),
        }
    }

    #[test]
    fn a_certificate_must_match_every_rule() {
        let shown = shown();
        for good in [
            certs(None, None),
            certs(Some("OU=payments"), None),
            certs(Some("^CN=app,"), Some("DNS:app\\.test")),
        ] {
            let known = good.judge(Some(&shown)).unwrap().unwrap();
            assert_eq!(&*known.subject, "CN=app,OU=payments");
            assert_eq!(&*known.scopes, &[Box::<str>::from("pay")]);
        }
        for bad in [
            certs(Some("OU=sales"), None),
            certs(Some("OU=payments"), Some("DNS:other")),
        ] {
            let refused = bad.judge(Some(&shown)).unwrap_err();
            assert_eq!(refused, AuthError::WrongCertificate);
        }
    }

    #[test]
    fn nobody_is_known_without_one() {
        assert_eq!(certs(None, None).judge(None), Ok(None));
    }
}

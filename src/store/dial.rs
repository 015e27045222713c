//! Connections to the store: resolving, TCP, TLS, login, all of it under one deadline.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::{MultiplexedConnection, PubSub};
use redis::{AsyncConnectionConfig, RedisConnectionInfo};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::failure::Failure;
use crate::config::model::{Redis, UpstreamTls};
use crate::metrics::RedisError as Kind;

/// Makes connections to one server.
///
/// Which server that is, is decided here alone, and anew for each connection.
pub(super) struct Dialer {
    settings: Arc<Redis>,
    login: RedisConnectionInfo,
    tls: Option<Arc<ClientConfig>>,
}

/// A connection whatever it is made of.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl Dialer {
    /// To what the settings name.
    pub fn new(settings: Arc<Redis>) -> Result<Self, Failure> {
        let tls = match &settings.tls {
            Some(tls) => {
                let config = client_config(tls).map_err(|error| {
                    Failure::new(Kind::Connect, format!("TLS cannot be set up: {error}"))
                })?;
                Some(Arc::new(config))
            }
            None => None,
        };
        Ok(Self {
            login: login(&settings),
            settings,
            tls,
        })
    }

    /// A connection for commands, and what has to be polled while it is used: it ends when the
    /// connection does.
    pub async fn connect(
        &self,
    ) -> Result<(MultiplexedConnection, impl Future<Output = ()> + 'static), Failure> {
        // Every command has a deadline of its own.
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        self.in_time(async {
            let stream = self.stream().await?;
            let connected =
                MultiplexedConnection::new_with_config(&self.login, stream, config).await?;
            Ok(connected)
        })
        .await
    }

    /// A connection that listens.
    pub async fn listen(&self) -> Result<PubSub, Failure> {
        self.in_time(async {
            let stream = self.stream().await?;
            Ok(PubSub::new(&self.login, stream).await?)
        })
        .await
    }

    async fn in_time<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let done = timeout(self.settings.connect_timeout, work).await;
        done.unwrap_or_else(|_| Err(Failure::new(Kind::Timeout, "no connection in time")))
    }

    async fn stream(&self) -> Result<Box<dyn Stream>, Failure> {
        let address = (&*self.settings.host, self.settings.port);
        let failed = |error: io::Error| Failure::connecting(&error);
        let stream = TcpStream::connect(address).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let Some(tls) = &self.tls else {
            return Ok(Box::new(stream));
        };
        let name = ServerName::try_from(self.settings.host.to_string())
            .map_err(|_| Failure::new(Kind::Connect, "the host is no name for TLS"))?;
        let connector = TlsConnector::from(Arc::clone(tls));
        Ok(Box::new(
            connector.connect(name, stream).await.map_err(failed)?,
        ))
    }
}

fn login(settings: &Redis) -> RedisConnectionInfo {
    let written = &settings.login;
    let mut login = RedisConnectionInfo::default().set_db(written.database);
    if let Some(user) = &written.user {
        login = login.set_username(user);
    }
    if let Some(password) = &written.password {
        login = login.set_password(password.reveal());
    }
    login
}

fn client_config(tls: &UpstreamTls) -> Result<ClientConfig, rustls::Error> {
    let mut authorities = RootCertStore::empty();
    for der in tls.authorities.iter() {
        authorities.add(CertificateDer::from(der.as_slice()))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(authorities);
    let Some(client) = &tls.client else {
        return Ok(config.with_no_client_auth());
    };
    let chain = client.chain.iter().cloned().map(CertificateDer::from);
    let key = PrivateKeyDer::try_from(client.key.clone())
        .map_err(|what| rustls::Error::General(what.to_owned()))?;
    config.with_client_auth_cert(chain.collect(), key)
}

/// How long to wait before another attempt: up to twice as long after each failure, and each time a
/// random part of that, so that many instances do not come together.
#[derive(Debug)]
pub struct Backoff {
    limit: Duration,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(50);
    /// Short, since a revocation has to be everywhere within a second of the store's return.
    const LONGEST: Duration = Duration::from_millis(400);

    /// The wait before the next attempt, `share` of 0 to 1 being what chance gives.
    pub fn next(&mut self, share: f64) -> Duration {
        let limit = self.limit;
        self.limit = (limit * 2).min(Self::LONGEST);
        limit.mul_f64(share.clamp(0.0, 1.0))
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self { limit: Self::FIRST }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_grows_to_its_limit_and_is_a_random_part_of_it() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..6).map(|_| backoff.next(1.0).as_millis()).collect();
        assert_eq!(waits, [50, 100, 200, 400, 400, 400]);
        assert_eq!(backoff.next(0.0), Duration::ZERO);
        assert_eq!(backoff.next(0.25), Duration::from_millis(100));
    }
}

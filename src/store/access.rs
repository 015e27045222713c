//! Connections to one server: TCP, TLS, login, all of it under one deadline.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::{MultiplexedConnection, PubSub};
use redis::{
    AsyncConnectionConfig, Cmd, FromRedisValue, Pipeline, RedisConnectionInfo, RedisResult, Value,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::failure::Failure;
use crate::config::model::{Login, Node, UpstreamTls};
use crate::metrics::RedisError as Kind;

/// How servers are reached that are reached alike.
pub(super) struct Access {
    login: RedisConnectionInfo,
    tls: Option<Arc<ClientConfig>>,
    deadline: Duration,
}

/// A connection whatever it is made of.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// A connection for commands.
pub(super) struct Opened {
    pub connection: MultiplexedConnection,
    /// What has to be polled while it is used: it ends when the connection does.
    pub driver: Driver,
}

type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Access {
    /// With this login and TLS, and so long for a connection.
    pub fn new(
        login: &Login,
        tls: Option<&UpstreamTls>,
        deadline: Duration,
    ) -> Result<Self, Failure> {
        let tls = match tls {
            Some(tls) => {
                let config = client_config(tls).map_err(|error| {
                    Failure::new(Kind::Connect, format!("TLS cannot be set up: {error}"))
                })?;
                Some(Arc::new(config))
            }
            None => None,
        };
        Ok(Self {
            login: first_words(login),
            tls,
            deadline,
        })
    }

    /// A connection for commands.
    pub async fn open(&self, node: &Node) -> Result<Opened, Failure> {
        // Every command has a deadline of its own.
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        self.in_time(async {
            let stream = self.stream(node).await?;
            let (connection, driver) =
                MultiplexedConnection::new_with_config(&self.login, stream, config).await?;
            let driver = Box::pin(driver);
            Ok(Opened { connection, driver })
        })
        .await
    }

    /// A connection that listens.
    pub async fn listen(&self, node: &Node) -> Result<PubSub, Failure> {
        self.in_time(async {
            let stream = self.stream(node).await?;
            Ok(PubSub::new(&self.login, stream).await?)
        })
        .await
    }

    async fn in_time<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let done = timeout(self.deadline, work).await;
        done.unwrap_or_else(|_| Err(Failure::new(Kind::Timeout, "no connection in time")))
    }

    async fn stream(&self, node: &Node) -> Result<Box<dyn Stream>, Failure> {
        let failed = |error: io::Error| Failure::connecting(&error);
        let stream = TcpStream::connect((&*node.host, node.port));
        let stream = stream.await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let Some(tls) = &self.tls else {
            return Ok(Box::new(stream));
        };
        let name = ServerName::try_from(node.host.to_string())
            .map_err(|_| Failure::new(Kind::Connect, "the host is no name for TLS"))?;
        let connector = TlsConnector::from(Arc::clone(tls));
        Ok(Box::new(
            connector.connect(name, stream).await.map_err(failed)?,
        ))
    }
}

impl Opened {
    /// Asks something before anybody else may.
    pub async fn ask<T: FromRedisValue>(
        &mut self,
        command: &Cmd,
        within: Duration,
    ) -> Result<T, Failure> {
        let answer = command.query_async(&mut self.connection);
        answered(answer, &mut self.driver, within).await
    }

    /// The same for several questions, each with an answer or an error.
    pub async fn ask_all(
        &mut self,
        commands: &Pipeline,
        within: Duration,
    ) -> Result<Vec<RedisResult<Value>>, Failure> {
        let answers = commands.query_async(&mut self.connection);
        answered(answers, &mut self.driver, within).await
    }
}

/// Waits for an answer, and moves the connection meanwhile.
async fn answered<T>(
    answer: impl Future<Output = RedisResult<T>>,
    driver: &mut Driver,
    within: Duration,
) -> Result<T, Failure> {
    tokio::select! {
        answer = timeout(within, answer) => match answer {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(Failure::new(Kind::Timeout, "no answer in time")),
        },
        () = driver => Err(Failure::new(Kind::Io, "the connection was closed")),
    }
}

fn first_words(written: &Login) -> RedisConnectionInfo {
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

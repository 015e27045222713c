//! What a configuration may ask of its surroundings: environment variables and host names.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};

/// The surroundings in which a file is read; a parameter, so that tests need neither the process's
/// environment nor a name server.
pub trait Env {
    /// The value of a variable.
    fn var(&self, name: &str) -> Option<String>;

    /// All variables whose name begins with `prefix`, in order of name.
    fn vars(&self, prefix: &str) -> Vec<(String, String)>;

    /// The addresses of a host name.
    fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>>;

    /// The certificates of the authorities that the system trusts.
    fn system_authorities(&self) -> io::Result<Vec<Vec<u8>>>;
}

/// The process's own environment and the system's resolver.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessEnv;

impl Env for ProcessEnv {
    fn var(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn vars(&self, prefix: &str) -> Vec<(String, String)> {
        // Names or values that are not UTF-8 cannot be ours; `vars` would panic on them.
        let mut vars: Vec<_> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| name.starts_with(prefix))
            .collect();
        vars.sort();
        vars
    }

    fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        Ok((host, port).to_socket_addrs()?.collect())
    }

    fn system_authorities(&self) -> io::Result<Vec<Vec<u8>>> {
        let found = rustls_native_certs::load_native_certs()?;
        Ok(found.into_iter().map(|der| der.to_vec()).collect())
    }
}

/// A closed environment: nothing but what it was given. For built-in configurations and tests.
#[derive(Clone, Debug, Default)]
pub struct FixedEnv {
    vars: BTreeMap<String, String>,
    hosts: BTreeMap<String, Vec<std::net::IpAddr>>,
    authorities: Vec<Vec<u8>>,
}

impl FixedEnv {
    /// Adds a variable.
    pub fn with_var(mut self, name: &str, value: &str) -> Self {
        self.vars.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Adds a host name and its addresses.
    pub fn with_host(mut self, host: &str, addresses: &[std::net::IpAddr]) -> Self {
        self.hosts.insert(host.to_owned(), addresses.to_vec());
        self
    }

    /// Adds an authority that the system trusts.
    pub fn with_authority(mut self, certificate: Vec<u8>) -> Self {
        self.authorities.push(certificate);
        self
    }
}

impl Env for FixedEnv {
    fn var(&self, name: &str) -> Option<String> {
        self.vars.get(name).cloned()
    }

    fn vars(&self, prefix: &str) -> Vec<(String, String)> {
        let ours = self
            .vars
            .iter()
            .filter(|(name, _)| name.starts_with(prefix));
        ours.map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    }

    fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let addresses = self.hosts.get(host).ok_or(io::ErrorKind::NotFound)?;
        Ok(addresses
            .iter()
            .map(|ip| SocketAddr::new(*ip, port))
            .collect())
    }
    fn system_authorities(&self) -> io::Result<Vec<Vec<u8>>> {
        Ok(self.authorities.clone())
    }
}

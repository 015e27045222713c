//! Who belongs to an upstream: one immutable list, which is replaced as a whole.
//!
//! Requests hold their backend themselves, so a member that goes finishes what it has and is dropped
//! with the last of it.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use super::Upstream;
use super::backend::Backend;
use super::drained::Drained;
use super::known::Known;
use super::peer::Peers;
use crate::config::model;
use crate::metrics::Metrics;
use crate::tls::backend::BackendTls;

/// The members of an upstream at one time; none while a discovery has not answered yet.
#[derive(Default)]
pub struct Members(Box<[Arc<Backend>]>);

impl Deref for Members {
    type Target = [Arc<Backend>];

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Members {
    /// The member of this name and address.
    fn find(&self, backend: &model::Backend) -> Option<&Arc<Backend>> {
        let same =
            |own: &&Arc<Backend>| own.name == backend.name && own.config.address == backend.address;
        self.iter().find(same)
    }
}

/// What new members are made with.
pub(super) struct Maker<'a> {
    pub config: &'a model::Upstream,
    pub tls: Option<&'a BackendTls>,
    pub drained: &'a Drained,
    pub busy: Option<&'a Arc<AtomicUsize>>,
    pub metrics: &'a Metrics,
    pub now: Instant,
}

impl Maker<'_> {
    /// The members of a new generation. What the one before knows of a member that stays is kept;
    /// how it is dialled may have changed.
    pub fn compile(&self, wanted: &[model::Backend], before: &Members) -> Members {
        let make = |backend: &model::Backend| {
            let known = before.find(backend).map(|before| Arc::clone(&before.known));
            let known = known.unwrap_or_else(|| self.nothing(backend, before));
            if self.config.health_check.is_none() {
                // No probe would ever bring it back.
                known.probed.set(true);
            }
            self.make(backend, known, self.peers(backend))
        };
        Members(wanted.iter().map(make).collect())
    }

    /// Other members of the same generation: those that stay are the same as before.
    pub fn replace(&self, wanted: &[model::Backend], before: &Members) -> Members {
        let make = |backend: &model::Backend| match before.find(backend) {
            Some(same) if same.config == *backend => Arc::clone(same),
            Some(other) => {
                let is_dialled_alike = other.config.server_name == backend.server_name;
                let peers = match is_dialled_alike {
                    true => Arc::clone(&other.peers),
                    false => self.peers(backend),
                };
                self.make(backend, Arc::clone(&other.known), peers)
            }
            None => self.make(backend, self.nothing(backend, before), self.peers(backend)),
        };
        Members(wanted.iter().map(make).collect())
    }

    /// What is known of a new member: a check may want it judged before it gets requests, and an operator
    /// may have drained it when it was here before.
    fn nothing(&self, backend: &model::Backend, before: &Members) -> Arc<Known> {
        let check = self.config.health_check.as_ref();
        let up = check.is_none_or(|check| check.starts_healthy);
        let known = Known::nothing(up, !before.is_empty(), self.now);
        known.set_draining(self.drained.contains(&backend.name));
        known
    }

    fn make(&self, backend: &model::Backend, known: Arc<Known>, peers: Arc<Peers>) -> Arc<Backend> {
        Arc::new(Backend {
            name: Arc::clone(&backend.name),
            weight: backend.weight,
            config: backend.clone(),
            pool: self.config.pool.clone(),
            most: self.config.concurrency.and_then(|limit| limit.per_backend),
            known,
            of_all: self.busy.cloned(),
            metrics: self.metrics.backend(&self.config.name, &backend.name),
            peers,
        })
    }

    fn peers(&self, backend: &model::Backend) -> Arc<Peers> {
        let metrics = self.metrics.upstream(&self.config.name);
        let (upstream, tls) = (self.config, self.tls);
        Arc::new(Peers::new(upstream, backend, tls, &metrics, self.now))
    }
}

/// The members that a new generation begins with. A discovery takes over those of the generation before
/// until its source has answered, whatever else has changed.
pub(super) fn first(config: &model::Upstream, previous: Option<&Upstream>) -> Vec<model::Backend> {
    let mut first = config.backends.clone();
    if let (Some(_), Some(previous)) = (&config.discovery, previous) {
        let members = previous.members();
        let is_new = |one: &&Arc<Backend>| {
            let mut written = config.backends.iter();
            written.all(|own| own.address != one.config.address)
        };
        let kept = members.iter().filter(is_new);
        first.extend(kept.map(|one| one.config.clone()));
    }
    first
}

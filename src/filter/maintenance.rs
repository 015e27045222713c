//! Maintenance mode: whether a request is told to come back later.
//!
//! The configuration says it for everything or for a route; a switch at run time overrides that
//! until it is switched back. Switches are shared by all generations of the configuration.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use serde::{Deserialize, Serialize};

use crate::config::model;
use crate::reply::{Notice, Rejection};

const AS_CONFIGURED: u8 = 0;
const ON: u8 = 1;
const OFF: u8 = 2;

/// What was switched at run time, if anything.
#[derive(Debug, Default)]
pub struct Switch(AtomicU8);

impl Switch {
    /// Whether maintenance is on, with what the configuration says.
    pub fn is_on(&self, configured: bool) -> bool {
        self.switched().unwrap_or(configured)
    }

    /// What was switched at run time; `None` leaves it to the configuration.
    pub fn switched(&self) -> Option<bool> {
        match self.0.load(Relaxed) {
            ON => Some(true),
            OFF => Some(false),
            _ => None,
        }
    }

    /// Switches. Whoever switches to what is configured anyway leaves it to the configuration.
    pub fn set(&self, on: bool, configured: bool) {
        self.restore(Some(on).filter(|on| *on != configured));
    }

    fn restore(&self, switched: Option<bool>) {
        let state = match switched {
            None => AS_CONFIGURED,
            Some(true) => ON,
            Some(false) => OFF,
        };
        self.0.store(state, Relaxed);
    }
}

/// Maintenance of one route, or of all that are sent to backends.
#[derive(Debug)]
pub struct Maintenance {
    configured: bool,
    switch: Arc<Switch>,
}

impl Maintenance {
    /// As configured, with the switch of the generation before.
    pub fn new(configured: bool, previous: Option<&Self>) -> Self {
        Self {
            configured,
            switch: previous.map_or_else(Arc::default, |previous| Arc::clone(&previous.switch)),
        }
    }

    /// Whether it is on.
    pub fn is_on(&self) -> bool {
        self.switch.is_on(self.configured)
    }

    /// What was switched at run time.
    pub fn switched(&self) -> Option<bool> {
        self.switch.switched()
    }

    /// Switches it until it is switched back.
    pub fn set(&self, on: bool) {
        self.switch.set(on, self.configured);
    }

    /// Takes over what another process had switched.
    pub fn restore(&self, switched: Option<bool>) {
        self.switch.restore(switched);
    }
}

/// What is switched at run time: what one process tells its successor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Switches {
    /// For everything.
    pub all: Option<bool>,
    /// By the name of the route.
    pub routes: BTreeMap<String, bool>,
    /// Circuits that are held open, or closed, by the name of the upstream.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub circuits: BTreeMap<String, bool>,
}

/// What clients are told, from the configuration.
pub fn notice(config: &model::Maintenance) -> Arc<Notice> {
    // Zero would ask clients to come back at once.
    let seconds = config.retry_after.as_secs().max(1);
    Arc::new(Notice::new(seconds, config.message.as_deref()))
}

/// Refuses a request during maintenance. All of it concerns what goes to a backend; a route's own
/// concerns whatever the route does.
pub fn judge(
    all: &Maintenance,
    route: &Maintenance,
    proxied: bool,
    notice: &Arc<Notice>,
) -> Option<Rejection> {
    let on = (proxied && all.is_on()) || route.is_on();
    on.then(|| Rejection::Maintenance(Arc::clone(notice)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> model::Maintenance {
        model::Maintenance {
            enabled: false,
            retry_after: std::time::Duration::from_millis(300),
            message: None,
        }
    }

    #[test]
    fn all_of_it_spares_what_needs_no_backend_and_a_route_alone_spares_nothing() {
        let notice = notice(&config());
        let (on, off) = (Maintenance::new(true, None), Maintenance::new(false, None));
        assert!(judge(&on, &off, true, &notice).is_some());
        assert!(judge(&on, &off, false, &notice).is_none());
        assert!(judge(&off, &on, false, &notice).is_some());
        assert!(judge(&off, &off, true, &notice).is_none());
    }

    #[test]
    fn a_switch_holds_across_generations_until_it_is_switched_back() {
        let first = Maintenance::new(false, None);
        first.set(true);
        let second = Maintenance::new(false, Some(&first));
        assert!(second.is_on());
        second.set(false);
        assert_eq!((first.is_on(), first.switched()), (false, None));
        let third = Maintenance::new(true, Some(&second));
        assert!(third.is_on(), "left to the configuration");
        third.set(false);
        assert!(!Maintenance::new(true, Some(&third)).is_on());
    }
}

//! What the process as a whole can bear: requests in flight, memory, connections.
//!
//! A request looks at two numbers: how many are in flight, and how tight memory is, which is measured
//! beside the requests. The less important is refused first. Idle connections give way to new ones, and
//! to memory.

pub mod idle;
pub mod memory;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use self::idle::IdleConnections;
use crate::config::model::Priority;
use crate::metrics::{OverloadMetrics, Shed};

/// From which share of the memory on, in thousandths, the most important class in use is refused.
const SHED_FROM: u32 = 1000;
/// How much sooner each class below it is. What is in flight already may need the rest.
const STEP: u32 = 50;
/// From where on idle connections are closed.
const TIGHT: u32 = 950;

/// The state of the process, shared by all workers.
pub struct Overload {
    /// Connections that wait for a request.
    pub idle: Arc<IdleConnections>,
    /// Memory in use, in thousandths of what there is; 0 when that is not bounded.
    tightness: AtomicU32,
    used: AtomicU64,
    available: AtomicU64,
    metrics: Arc<OverloadMetrics>,
}

impl Overload {
    /// Nothing is known yet.
    pub fn new(metrics: Arc<OverloadMetrics>) -> Self {
        Self {
            idle: Arc::default(),
            tightness: AtomicU32::new(0),
            used: AtomicU64::new(0),
            available: AtomicU64::new(0),
            metrics,
        }
    }

    /// Takes over what was measured: bytes in use, and bytes that may be; `None`: any number.
    pub fn measured(&self, used: u64, available: Option<u64>) {
        let tightness = match available {
            None => 0,
            Some(available) => used.saturating_mul(1000) / available.max(1),
        };
        let tightness = u32::try_from(tightness).unwrap_or(u32::MAX);
        self.tightness.store(tightness, Relaxed);
        self.used.store(used, Relaxed);
        self.available.store(available.unwrap_or(0), Relaxed);
        self.metrics.set_memory(used, available.unwrap_or(0));
    }

    /// Bytes in use, and bytes that may be, 0 for any number.
    pub fn memory(&self) -> (u64, u64) {
        (self.used.load(Relaxed), self.available.load(Relaxed))
    }

    /// Whether memory is tight enough for idle connections to be closed.
    pub fn is_tight(&self) -> bool {
        self.tightness.load(Relaxed) >= TIGHT
    }

    /// The most important class that memory is too tight for, where `top` is the most important of all
    /// routes.
    pub fn shedding(&self, top: Priority) -> Option<Priority> {
        let tightness = self.tightness.load(Relaxed);
        let refused = |class: &&Priority| **class <= top && tightness >= shed_from(**class, top);
        Priority::ALL.iter().rev().find(refused).copied()
    }

    /// Whether there is room for one more request of this class, where so many of all classes are in
    /// flight and so many may be for this one.
    pub fn admits(&self, class: Priority, top: Priority, in_flight: usize, most: usize) -> bool {
        let reason = if in_flight > most {
            Shed::Requests
        } else if self.tightness.load(Relaxed) >= shed_from(class, top) {
            Shed::Memory
        } else {
            return true;
        };
        self.metrics.shed(reason, class.index());
        false
    }
}

/// From where on requests of a class are refused, where `top` is the most important one in use: nothing is
/// kept for those who never come.
fn shed_from(class: Priority, top: Priority) -> u32 {
    let below = top.index().saturating_sub(class.index()) as u32;
    SHED_FROM - STEP * below
}

#[cfg(test)]
mod tests {
    use super::*;
    use Priority::{Critical, High, Low, Normal};

    fn admitted(overload: &Overload, top: Priority) -> Vec<Priority> {
        let admits = |class: &Priority| *class <= top && overload.admits(*class, top, 1, 1);
        Priority::ALL.into_iter().filter(admits).collect()
    }

    #[test]
    fn as_memory_gets_tight_the_less_important_is_refused_first() {
        let overload = Overload::new(Arc::default());
        for (used, expected, shedding) in [
            (0, vec![Low, Normal, High, Critical], None),
            (849, vec![Low, Normal, High, Critical], None),
            (850, vec![Normal, High, Critical], Some(Low)),
            (900, vec![High, Critical], Some(Normal)),
            (950, vec![Critical], Some(High)),
            (1000, vec![], Some(Critical)),
            (u64::MAX, vec![], Some(Critical)),
        ] {
            overload.measured(used, Some(1000));
            assert_eq!(admitted(&overload, Critical), expected, "{used}");
            assert_eq!(overload.shedding(Critical), shedding);
        }
        overload.measured(u64::MAX, None);
        assert_eq!(admitted(&overload, Critical).len(), 4);
        overload.measured(5, Some(0));
        assert!(admitted(&overload, Critical).is_empty());
    }

    #[test]
    fn where_all_are_equal_nobody_is_refused_before_memory_is_used_up() {
        let overload = Overload::new(Arc::default());
        overload.measured(999, Some(1000));
        assert_eq!(admitted(&overload, Normal), [Normal]);
        assert!(overload.is_tight() && overload.shedding(Normal) == Some(Low));
        overload.measured(949, Some(1000));
        assert!(!overload.is_tight() && overload.shedding(Low).is_none());
        overload.measured(1000, Some(1000));
        assert_eq!(overload.shedding(Normal), Some(Normal));
    }

    #[test]
    fn requests_in_flight_are_bounded() {
        let overload = Overload::new(Arc::default());
        let admits = |in_flight| overload.admits(Normal, Normal, in_flight, 10);
        assert!(admits(10), "it is one of them itself");
        assert!(!admits(11));
    }
}

//! A Cluster: each command goes to the server that has its key's slot.
//!
//! Who has what is asked ahead of time (`refresh`) and kept as a view, which commands read without
//! waiting. A view that is not true any more is found out by the server that is asked: it says where to
//! go instead, and the command goes there within its deadline.

mod redirect;
mod refresh;
mod routing;
mod topology;

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::timeout;

use self::topology::Topology;
use super::access::Access;
use super::context::Context;
use super::dial::Dialer;
use super::failure::Failure;
use super::member::Member;
use crate::config::model::Node;
use crate::metrics::RedisError as Kind;

/// Servers without a slot that commands were sent on to, at most.
const MAX_GUESTS: usize = 16;
/// How long one of them is kept after that.
const GUEST_LIFE: Duration = Duration::from_secs(30);

/// The servers of a Cluster.
pub(super) struct Cluster {
    context: Arc<Context>,
    access: Arc<Access>,
    runtime: Handle,
    /// Those of the configuration.
    seeds: Vec<Node>,
    view: ArcSwap<View>,
    /// The latest change among the servers that was heard of, as they count.
    epoch: AtomicU64,
    guests: Mutex<Vec<Guest>>,
    /// How often it was asked who has what.
    rounds: watch::Sender<u64>,
}

/// Who has what, with the connections.
pub(super) struct View {
    topology: Topology,
    /// Of each master in the topology, at the same place.
    pub members: Vec<Arc<Member>>,
}

/// A server that a slot is on its way to, and that may have none yet.
struct Guest {
    node: Node,
    member: Arc<Member>,
    used: Instant,
}

impl Cluster {
    /// One of which these servers are known. [`Cluster::keep_view`] is to be run.
    pub fn new(
        seeds: Vec<Node>,
        access: Access,
        context: &Arc<Context>,
        runtime: &Handle,
    ) -> Arc<Self> {
        Arc::new(Self {
            context: Arc::clone(context),
            access: Arc::new(access),
            runtime: runtime.clone(),
            seeds,
            view: ArcSwap::from_pointee(View {
                topology: Topology::default(),
                members: Vec::new(),
            }),
            epoch: AtomicU64::new(0),
            guests: Mutex::default(),
            rounds: watch::Sender::new(0),
        })
    }

    /// Who has what, as far as is known.
    pub fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// Asks anew who has what, and waits for the answer. A failure if somebody's keys are missing.
    pub async fn whole_view(&self, within: Duration) -> Result<Arc<View>, Failure> {
        let mut rounds = self.rounds.subscribe();
        rounds.mark_unchanged();
        self.context.doubt.notify_one();
        let asked = timeout(within, rounds.changed()).await;
        if !matches!(asked, Ok(Ok(()))) {
            return Err(Failure::new(
                Kind::Timeout,
                "nobody says who has which slot",
            ));
        }
        let view = self.view();
        if view.topology.unserved() > 0 {
            return Err(Failure::new(
                Kind::Cluster,
                "some slots are served by nobody",
            ));
        }
        Ok(view)
    }

    /// Any of them, once there is one that can be asked.
    pub async fn any(&self, within: Duration) -> Result<Arc<Member>, Failure> {
        let mut available = self.context.availability();
        // Whether it came to that is seen below.
        drop(timeout(within, available.wait_for(|is_there| *is_there)).await);
        let view = self.view();
        let usable = view.members.iter().filter(|one| one.pool.usable() > 0);
        let usable: Vec<_> = usable.collect();
        let any = fastrand::choice(usable).cloned();
        any.ok_or_else(|| Failure::new(Kind::Connect, "no server can be reached"))
    }

    /// The server at an address that another one has named.
    fn named(&self, node: &Node) -> Option<Arc<Member>> {
        if let Some(member) = self.view.load().member(node) {
            return Some(member);
        }
        let mut guests = self.guests.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(guest) = guests.iter_mut().find(|guest| guest.node == *node) {
            guest.used = Instant::now();
            return Some(Arc::clone(&guest.member));
        }
        if guests.len() >= MAX_GUESTS {
            return None;
        }
        let member = self.member(node);
        guests.push(Guest {
            node: node.clone(),
            member: Arc::clone(&member),
            used: Instant::now(),
        });
        Some(member)
    }

    fn member(&self, node: &Node) -> Arc<Member> {
        let dialer = Dialer::to(node.clone(), &self.access);
        Member::start(dialer, &self.context, &self.runtime)
    }
}

impl View {
    /// How many slots no server has.
    pub fn unserved(&self) -> usize {
        self.topology.unserved()
    }

    /// Which of the members has a slot, and how many there are; the same twice when none has it.
    pub fn owner(&self, slot: u16) -> (usize, usize) {
        let count = self.members.len();
        (self.topology.owner(slot).unwrap_or(count), count)
    }

    /// Whether each slot is with the same server in both.
    pub fn is_like(&self, other: &Self) -> bool {
        self.topology == other.topology
    }

    fn member(&self, node: &Node) -> Option<Arc<Member>> {
        let index = self.topology.masters.binary_search(node).ok()?;
        self.members.get(index).cloned()
    }
}

//! What `/status` tells of the store.

use std::time::SystemTime;

use super::context::Context;
use super::failure::Failure;
use super::servers::Connections;
use crate::config::model::{Node, Servers};

/// All of it.
#[derive(Clone, Debug)]
pub struct State {
    /// How many servers there are to find.
    pub mode: Mode,
    /// What it is called: its address, the name of the master, or those that were configured.
    pub address: String,
    /// Connections that can be used.
    pub connections: usize,
    /// Those that there should be to each server.
    pub pool_size: usize,
    /// The servers that are written to.
    pub servers: Vec<ServerState>,
    /// Who was asked which that is.
    pub sentinels: Vec<SentinelState>,
    /// Slots of a Cluster that no server has.
    pub unserved_slots: usize,
    /// The last failure since this configuration.
    pub last_failure: Option<(SystemTime, Failure)>,
}

/// How the servers are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// There is one.
    Single,
    /// There is one that sentinels know.
    Sentinel,
    /// There are several, each with some slots.
    Cluster,
}

/// One server.
#[derive(Clone, Debug)]
pub struct ServerState {
    /// Where it is.
    pub address: String,
    /// Connections that can be used.
    pub connections: usize,
}

/// One sentinel.
#[derive(Clone, Debug)]
pub struct SentinelState {
    /// Where it is.
    pub address: String,
    /// The master that it names; `None` when it cannot be reached.
    pub master: Option<String>,
}

impl Mode {
    /// The word of `/status`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Sentinel => "sentinel",
            Self::Cluster => "cluster",
        }
    }
}

impl State {
    /// The word of `/status`.
    pub fn label(&self) -> &'static str {
        let is_down = |server: &ServerState| server.connections == 0;
        if self.connections == 0 {
            return "down";
        }
        if self.unserved_slots > 0 || self.servers.iter().any(is_down) {
            return "partial";
        }
        "up"
    }
}

/// Of these connections, now.
pub(super) fn of(context: &Context, connections: &Connections) -> State {
    let mut sentinel_states = Vec::new();
    let mut unserved_slots = 0;
    let (mode, members) = match connections {
        Connections::One { member, sentinels } => {
            let views = sentinels.as_ref().map(|sentinels| sentinels.views());
            sentinel_states.extend(views.into_iter().flatten().map(|(node, master)| {
                SentinelState {
                    address: node.to_string(),
                    master: master.map(|master| master.to_string()),
                }
            }));
            let mode = match sentinels {
                Some(_) => Mode::Sentinel,
                None => Mode::Single,
            };
            (mode, vec![member.clone()])
        }
        Connections::Cluster(cluster) => {
            let view = cluster.view();
            unserved_slots = view.unserved();
            (Mode::Cluster, view.members.clone())
        }
    };
    let server = |pool: &super::pool::Pool| {
        Some(ServerState {
            // Without one nobody knows yet where it is.
            address: pool.dialer.node()?.to_string(),
            connections: pool.usable(),
        })
    };
    let servers: Vec<_> = members.iter().filter_map(|one| server(&one.pool)).collect();
    State {
        mode,
        address: address(&context.settings.servers),
        connections: servers.iter().map(|server| server.connections).sum(),
        pool_size: context.settings.pool_size,
        servers,
        sentinels: sentinel_states,
        unserved_slots,
        last_failure: context.report.last(),
    }
}

/// What a store is called: no secret, unlike the rest of a URL.
pub(super) fn address(servers: &Servers) -> String {
    match servers {
        Servers::Single(node) => node.to_string(),
        Servers::Sentinel(sentinel) => sentinel.master.to_string(),
        Servers::Cluster(seeds) => {
            let seeds: Vec<_> = seeds.iter().map(Node::to_string).collect();
            seeds.join(",")
        }
    }
}

//! A real Cluster: three masters with all slots, and a server that is a part of it without any.

use super::redis::Redis;
use super::wait::eventually;

/// The masters' slots, each to the last one.
const SPANS: [(u16, u16); 3] = [(0, 5460), (5461, 10_922), (10_923, 16_383)];
/// The server without slots.
pub const SPARE: usize = 3;

/// Four servers that know each other.
pub struct RedisCluster {
    /// The masters, then the spare one.
    pub nodes: Vec<Redis>,
}

impl RedisCluster {
    /// Starts them, and waits until they agree.
    #[track_caller]
    pub fn start() -> Self {
        Self::with_node_timeout("5000")
    }

    /// The same, with this many milliseconds until a server is taken for dead.
    #[track_caller]
    pub fn with_node_timeout(milliseconds: &str) -> Self {
        let arguments = [
            "--cluster-enabled",
            "yes",
            "--cluster-node-timeout",
            milliseconds,
            "--repl-diskless-sync-delay",
            "0",
        ];
        let nodes: Vec<_> = (0..=SPARE).map(|_| Redis::with(&arguments)).collect();
        for (index, node) in nodes.iter().enumerate() {
            let epoch = (index + 1).to_string();
            assert_eq!(node.ask(&["CLUSTER", "SET-CONFIG-EPOCH", &epoch]), "OK");
        }
        for (node, (first, last)) in nodes.iter().zip(SPANS) {
            let (first, last) = (first.to_string(), last.to_string());
            let answer = node.ask(&["CLUSTER", "ADDSLOTSRANGE", &first, &last]);
            assert_eq!(answer, "OK");
        }
        let cluster = Self { nodes };
        cluster.introduce();
        cluster
    }

    fn introduce(&self) {
        let (first, others) = self.nodes.split_first().expect("nodes");
        for other in others {
            let port = other.address().port().to_string();
            assert_eq!(first.ask(&["CLUSTER", "MEET", "127.0.0.1", &port]), "OK");
        }
        eventually("all know each other", || {
            self.nodes.iter().all(|node| {
                let links = node.ask(&["CLUSTER", "NODES"]);
                let known = links.lines().filter(|line| !line.contains("handshake"));
                known.count() == self.nodes.len() && Self::is_well(node)
            })
        });
    }

    /// Whether a server thinks that all is well.
    pub fn is_well(node: &Redis) -> bool {
        node.ask(&["CLUSTER", "INFO"]).contains("cluster_state:ok")
    }

    /// What the others call a server.
    pub fn id(&self, node: usize) -> String {
        self.nodes[node].ask(&["CLUSTER", "MYID"])
    }

    /// The slot of a key.
    pub fn slot(&self, key: &str) -> u16 {
        let slot = self.nodes[0].ask(&["CLUSTER", "KEYSLOT", key]);
        slot.parse().expect("a slot")
    }

    /// Which master had a slot in the beginning.
    pub fn owner(slot: u16) -> usize {
        SPANS
            .iter()
            .position(|(_, last)| slot <= *last)
            .expect("an owner")
    }

    /// Makes the spare server the replica of a master, and waits until it has its data.
    #[track_caller]
    pub fn make_replica(&self, master: usize) {
        let id = self.id(master);
        let spare = &self.nodes[SPARE];
        eventually("it is a replica", || {
            spare.ask(&["CLUSTER", "REPLICATE", &id]) == "OK"
        });
        eventually("it is in step", || {
            let state = spare.ask(&["INFO", "replication"]);
            state.contains("master_link_status:up")
        });
        let port = spare.address().port().to_string();
        eventually("everybody knows", || {
            self.nodes.iter().all(|node| {
                let nodes = node.ask(&["CLUSTER", "NODES"]);
                let mut lines = nodes.lines();
                lines.any(|line| line.contains(&format!(":{port}@")) && line.contains("slave"))
            })
        });
    }

    /// Begins to move a slot: keys that are not there any more are asked for at the other server.
    #[track_caller]
    pub fn begin_move(&self, slot: u16, to: usize) {
        let (from, slot) = (Self::owner(slot), slot.to_string());
        let (source, target) = (self.id(from), self.id(to));
        let importing = ["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source];
        assert_eq!(self.nodes[to].ask(&importing), "OK");
        let migrating = ["CLUSTER", "SETSLOT", &slot, "MIGRATING", &target];
        assert_eq!(self.nodes[from].ask(&migrating), "OK");
    }

    /// Moves the keys of a slot that is on its way, and the slot itself.
    #[track_caller]
    pub fn finish_move(&self, slot: u16, to: usize) {
        let (from, slot) = (Self::owner(slot), slot.to_string());
        let port = self.nodes[to].address().port().to_string();
        loop {
            let keys = self.nodes[from].ask(&["CLUSTER", "GETKEYSINSLOT", &slot, "100"]);
            if keys.is_empty() {
                break;
            }
            for key in keys.lines() {
                let move_it = ["MIGRATE", "127.0.0.1", &port, key, "0", "5000"];
                let answer = self.nodes[from].ask(&move_it);
                assert!(matches!(&*answer, "OK" | "NOKEY"), "{answer}");
            }
        }
        let target = self.id(to);
        for node in [to, from] {
            let done = ["CLUSTER", "SETSLOT", &slot, "NODE", &target];
            assert_eq!(self.nodes[node].ask(&done), "OK");
        }
    }

    /// The setting `cluster` of a configuration, naming some of the servers.
    pub fn setting(&self, nodes: &[usize]) -> String {
        let nodes = nodes.iter().map(|node| self.nodes[*node].address());
        let nodes: Vec<_> = nodes.map(|address| format!("'{address}'")).collect();
        format!("cluster: {{ nodes: [{}] }}", nodes.join(", "))
    }
}

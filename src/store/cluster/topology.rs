//! Which server has which slot, as an answer to `CLUSTER SLOTS` tells.

use std::fmt;

use redis::Value;

use crate::config::model::Node;
use crate::metrics::RedisError as Kind;
use crate::store::failure::Failure;
use crate::store::slot::SLOTS;

/// The most masters of a Cluster; the Cluster specification of Redis recommends no more.
const MAX_MASTERS: usize = 1000;
/// A slot that no server has.
const NOBODY: u16 = u16::MAX;

/// Who has what.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Topology {
    /// Those that have slots, in order.
    pub masters: Vec<Node>,
    /// Their replicas, which may know more when the masters are gone.
    pub replicas: Vec<Node>,
    /// For each slot an index into the masters.
    owners: Box<[u16]>,
}

impl Topology {
    /// Reads an answer of `asked`.
    pub fn read(answer: &Value, asked: &Node) -> Result<Self, Failure> {
        Self::try_read(answer, asked).ok_or_else(|| {
            Failure::new(
                Kind::Protocol,
                "an answer to CLUSTER SLOTS is not understood",
            )
        })
    }

    fn try_read(answer: &Value, asked: &Node) -> Option<Self> {
        let Value::Array(ranges) = answer else {
            return None;
        };
        let mut found = Self::default();
        let mut spans = Vec::new();
        for range in ranges {
            let Value::Array(range) = range else {
                return None;
            };
            let [Value::Int(first), Value::Int(last), master, replicas @ ..] = range.as_slice()
            else {
                return None;
            };
            let span = usize::try_from(*first).ok()?..=usize::try_from(*last).ok()?;
            if span.is_empty() {
                return None;
            }
            let master = node(master, asked)?;
            found.masters.push(master.clone());
            // One whose address is not known yet is of no use.
            found
                .replicas
                .extend(replicas.iter().filter_map(|one| node(one, asked)));
            spans.push((span, master));
        }
        for nodes in [&mut found.masters, &mut found.replicas] {
            nodes.sort();
            nodes.dedup();
        }
        if found.masters.len() > MAX_MASTERS {
            return None;
        }
        for (span, master) in spans {
            let index = found.masters.binary_search(&master).ok()?;
            let index = u16::try_from(index).ok()?;
            found.owners.get_mut(span)?.fill(index);
        }
        Some(found)
    }

    /// The master that has a slot, as an index.
    pub fn owner(&self, slot: u16) -> Option<usize> {
        let owner = self.owners.get(usize::from(slot)).copied();
        owner.filter(|owner| *owner != NOBODY).map(usize::from)
    }

    /// How many slots no server has.
    pub fn unserved(&self) -> usize {
        self.owners.iter().filter(|owner| **owner == NOBODY).count()
    }
}

impl Default for Topology {
    /// Nobody has anything.
    fn default() -> Self {
        Self {
            masters: Vec::new(),
            replicas: Vec::new(),
            owners: vec![NOBODY; SLOTS].into(),
        }
    }
}

impl fmt::Debug for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Topology")
            .field("masters", &self.masters)
            .finish_non_exhaustive()
    }
}

/// Reads `[host, port, id, …]`. No host means the one that was asked.
fn node(written: &Value, asked: &Node) -> Option<Node> {
    let Value::Array(fields) = written else {
        return None;
    };
    let [host, Value::Int(port), ..] = fields.as_slice() else {
        return None;
    };
    let host = match host {
        Value::Nil => asked.host.clone(),
        Value::BulkString(host) if host.is_empty() => asked.host.clone(),
        // The name is not known yet.
        Value::BulkString(host) if host == b"?" => return None,
        Value::BulkString(host) => std::str::from_utf8(host).ok()?.into(),
        _ => return None,
    };
    let port = u16::try_from(*port).ok().filter(|port| *port > 0)?;
    Some(Node { host, port })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step is a failed test")]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.into())
    }

    fn at(host: Value, port: i64) -> Value {
        Value::Array(vec![
            host,
            Value::Int(port),
            bulk("id"),
            Value::Array(vec![]),
        ])
    }

    fn range(first: i64, last: i64, nodes: &[Value]) -> Value {
        let mut fields = vec![Value::Int(first), Value::Int(last)];
        fields.extend(nodes.iter().cloned());
        Value::Array(fields)
    }

    fn read(ranges: Vec<Value>) -> Result<Topology, Failure> {
        let asked = Node {
            host: "asked".into(),
            port: 1,
        };
        Topology::read(&Value::Array(ranges), &asked)
    }

    #[test]
    fn every_slot_has_the_owner_that_is_told() {
        let topology = read(vec![
            range(10, 16_383, &[at(bulk("b"), 2), at(bulk("c"), 3)]),
            range(0, 4, &[at(bulk("a"), 1), at(bulk("?"), 3)]),
            range(6, 6, &[at(Value::Nil, 7)]),
            range(7, 7, &[at(bulk(""), 7)]),
        ])
        .unwrap();
        let owner = |slot| {
            topology
                .owner(slot)
                .map(|index| topology.masters[index].to_string())
        };
        assert_eq!(owner(0).unwrap(), "a:1");
        assert_eq!(owner(4).unwrap(), "a:1");
        assert_eq!(owner(5), None);
        assert_eq!(owner(6).unwrap(), "asked:7");
        assert_eq!(owner(7).unwrap(), "asked:7");
        assert_eq!(owner(16_383).unwrap(), "b:2");
        assert_eq!(owner(16_384), None);
        assert_eq!(topology.unserved(), 3);
        assert_eq!(topology.masters.len(), 3);
        let replicas: Vec<_> = topology.replicas.iter().map(Node::to_string).collect();
        assert_eq!(replicas, ["c:3"]);
    }

    #[test]
    fn an_answer_that_makes_no_sense_is_refused() {
        for ranges in [
            vec![Value::Int(1)],
            vec![range(0, 16_384, &[at(bulk("a"), 1)])],
            vec![range(-1, 4, &[at(bulk("a"), 1)])],
            vec![range(4, 3, &[at(bulk("a"), 1)])],
            vec![range(0, 4, &[])],
            vec![range(0, 4, &[at(bulk("a"), 0)])],
            vec![range(0, 4, &[at(bulk("a"), 65_536)])],
            vec![range(0, 4, &[at(bulk("?"), 1)])],
            vec![range(0, 4, &[bulk("a")])],
        ] {
            assert!(read(ranges.clone()).is_err(), "{ranges:?}");
        }
        assert_eq!(read(vec![]).unwrap().unserved(), SLOTS);
    }
}

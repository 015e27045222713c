//! What an answer of a server in a Cluster means for its command.

use redis::{ErrorKind, RedisError, ServerErrorKind};

use crate::config::model::Node;

/// What is to be done with a command that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Redirect {
    /// The slot is another server's now.
    Moved(Node),
    /// The slot is on its way, and this key is at the other server already.
    Ask(Node),
    /// Not now.
    Wait,
}

/// Reads the refusal of `asked`; `None` is an error that is the command's own.
pub(super) fn redirect(error: &RedisError, asked: &Node) -> Option<Redirect> {
    let ErrorKind::Server(kind) = error.kind() else {
        return None;
    };
    // The command was refused before it did anything.
    match kind {
        ServerErrorKind::Moved => Some(Redirect::Moved(target(error, asked)?)),
        ServerErrorKind::Ask => Some(Redirect::Ask(target(error, asked)?)),
        ServerErrorKind::TryAgain
        | ServerErrorKind::ClusterDown
        | ServerErrorKind::MasterDown
        | ServerErrorKind::ReadOnly => Some(Redirect::Wait),
        _ => None,
    }
}

/// Reads `SLOT HOST:PORT`, of which the host may be missing.
fn target(error: &RedisError, asked: &Node) -> Option<Node> {
    let (address, _) = error.redirect_node()?;
    let (host, port) = address.rsplit_once(':')?;
    let host = match host.trim_start_matches('[').trim_end_matches(']') {
        "" => asked.host.clone(),
        "?" => return None,
        host => host.into(),
    };
    let port = port.parse().ok().filter(|port| *port > 0)?;
    Some(Node { host, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Option<Redirect> {
        let answer = redis::parse_redis_value(format!("-{line}\r\n").as_bytes());
        let error = answer.ok()?.extract_error().err()?;
        let asked = Node {
            host: "asked".into(),
            port: 1,
        };
        redirect(&error, &asked)
    }

    fn node(host: &str, port: u16) -> Node {
        let host = host.into();
        Node { host, port }
    }

    #[test]
    fn refusals_say_where_to_go() {
        let moved = |host, port| Some(Redirect::Moved(node(host, port)));
        assert_eq!(read("MOVED 3999 10.0.0.1:6381"), moved("10.0.0.1", 6381));
        assert_eq!(read("MOVED 3999 :6380"), moved("asked", 6380));
        assert_eq!(read("MOVED 3999 ::1:6380"), moved("::1", 6380));
        assert_eq!(read("MOVED 3999 [::1]:6380"), moved("::1", 6380));
        assert_eq!(
            read("ASK 1 redis-2:7"),
            Some(Redirect::Ask(node("redis-2", 7)))
        );
        for wait in ["TRYAGAIN x", "CLUSTERDOWN x", "MASTERDOWN x", "READONLY x"] {
            assert_eq!(read(wait), Some(Redirect::Wait), "{wait}");
        }
    }

    #[test]
    fn other_errors_are_the_commands_own() {
        for own in [
            "ERR x",
            "WRONGTYPE x",
            "NOSCRIPT x",
            "LOADING x",
            "MOVED",
            "MOVED 1",
            "MOVED 1 host",
            "MOVED 1 host:0",
            "MOVED 1 ?:1",
        ] {
            assert_eq!(read(own), None, "{own}");
        }
    }
}

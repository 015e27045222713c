//! Where to connect to, decided anew for each connection.

use std::sync::Arc;
use std::time::Duration;

use redis::Value;
use redis::aio::PubSub;

use super::access::{Access, Opened};
use super::failure::Failure;
use super::sentinel::Sentinels;
use crate::config::model::Node;
use crate::metrics::RedisError as Kind;

/// Makes connections.
pub(super) struct Dialer {
    access: Arc<Access>,
    target: Target,
}

/// Which server.
enum Target {
    /// Always this one.
    Node(Node),
    /// The one that is the master now.
    Master(Arc<Sentinels>),
}

impl Dialer {
    /// To one server.
    pub fn to(node: Node, access: &Arc<Access>) -> Self {
        Self {
            access: Arc::clone(access),
            target: Target::Node(node),
        }
    }

    /// To the master that sentinels know.
    pub fn to_master(sentinels: Arc<Sentinels>, access: &Arc<Access>) -> Self {
        Self {
            access: Arc::clone(access),
            target: Target::Master(sentinels),
        }
    }

    /// The server that the next connection goes to, when it is known.
    pub fn node(&self) -> Option<Node> {
        match &self.target {
            Target::Node(node) => Some(node.clone()),
            Target::Master(sentinels) => sentinels.master(),
        }
    }

    /// A connection for commands, and the server that it leads to.
    pub async fn connect(&self, within: Duration) -> Result<(Opened, Node), Failure> {
        let node = self.destination().await?;
        let opened = self.try_connect(&node, within).await;
        if let (Err(_), Target::Master(sentinels)) = (&opened, &self.target) {
            // They may know of another by now.
            sentinels.doubt();
        }
        Ok((opened?, node))
    }

    async fn try_connect(&self, node: &Node, within: Duration) -> Result<Opened, Failure> {
        let mut opened = self.access.open(node).await?;
        if let Target::Master(_) = self.target {
            let role: Vec<Value> = opened.ask(&redis::cmd("ROLE"), within).await?;
            if !is_master(&role) {
                let what = "it is no master, although sentinels say so";
                return Err(Failure::new(Kind::ReadOnly, what));
            }
        }
        Ok(opened)
    }

    /// A connection that listens.
    pub async fn listen(&self) -> Result<PubSub, Failure> {
        let node = self.destination().await?;
        self.access.listen(&node).await
    }

    /// Waits until connections should lead elsewhere than to this server.
    pub async fn moved_from(&self, node: &Node) {
        match &self.target {
            Target::Node(_) => std::future::pending().await,
            Target::Master(sentinels) => sentinels.replaced(node).await,
        }
    }

    async fn destination(&self) -> Result<Node, Failure> {
        match &self.target {
            Target::Node(node) => Ok(node.clone()),
            Target::Master(sentinels) => sentinels.find().await,
        }
    }
}

/// The first word of an answer to `ROLE`.
fn is_master(role: &[Value]) -> bool {
    match role.first() {
        Some(Value::BulkString(word)) => word == b"master",
        Some(Value::SimpleString(word)) => word == "master",
        _ => false,
    }
}

//! The servers of one configuration: one, a master that sentinels know, or the masters of a Cluster.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::PubSub;
use redis::{Cmd, FromRedisValue};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use super::access::Access;
use super::cluster::{Cluster, View};
use super::context::Context;
use super::dial::Dialer;
use super::failure::Failure;
use super::keyed::{self, Answer, Keyed};
use super::member::Member;
use super::sentinel::Sentinels;
use super::slot::slot;
use crate::config::model::Servers;
use crate::metrics::RedisError as Kind;

/// The connections to all of them.
pub(super) enum Connections {
    /// To one at a time.
    One {
        member: Arc<Member>,
        /// Who knows which.
        sentinels: Option<Arc<Sentinels>>,
    },
    /// To several.
    Cluster(Arc<Cluster>),
}

/// The servers that together have every key.
pub struct Shards {
    /// Each of them.
    pub all: Vec<Shard>,
    view: Option<Arc<View>>,
}

/// One of them.
pub struct Shard(Arc<Member>);

impl Connections {
    /// Starts to connect.
    pub fn start(
        context: &Arc<Context>,
        runtime: &Handle,
        tasks: &mut JoinSet<()>,
    ) -> Result<Self, Failure> {
        let _within = runtime.enter();
        let settings = &context.settings;
        let access = Access::new(
            &settings.login,
            settings.tls.as_ref(),
            settings.connect_timeout,
        )?;
        Ok(match &settings.servers {
            Servers::Single(node) => {
                let dialer = Dialer::to(node.clone(), &Arc::new(access));
                let member = Member::start(dialer, context, runtime);
                let sentinels = None;
                Self::One { member, sentinels }
            }
            Servers::Sentinel(sentinel) => {
                let sentinels = Sentinels::start(sentinel, context, tasks)?;
                let dialer = Dialer::to_master(Arc::clone(&sentinels), &Arc::new(access));
                let member = Member::start(dialer, context, runtime);
                let sentinels = Some(sentinels);
                Self::One { member, sentinels }
            }
            Servers::Cluster(seeds) => {
                let cluster = Cluster::new(seeds.clone(), access, context, runtime);
                tasks.spawn(Arc::clone(&cluster).keep_view());
                Self::Cluster(cluster)
            }
        })
    }

    /// Whether one server does everything, in the order in which it arrives.
    pub fn are_one(&self) -> bool {
        matches!(self, Self::One { .. })
    }

    /// See [`super::Store::owner`].
    pub fn owner(&self, key: &str) -> (usize, usize) {
        match self {
            Self::One { .. } => (0, 1),
            Self::Cluster(cluster) => cluster.view().owner(slot(key.as_bytes())),
        }
    }

    /// Sends each command where it belongs.
    pub async fn each(&self, commands: Vec<Keyed>, within: Duration) -> Vec<Answer> {
        match self {
            Self::One { member, .. } => keyed::exchange(&member.pool, commands, within).await,
            Self::Cluster(cluster) => cluster.each(commands, within).await,
        }
    }

    /// See [`super::Store::shards`].
    pub async fn shards(&self, within: Duration) -> Result<Shards, Failure> {
        match self {
            Self::One { member, .. } => Ok(Shards {
                all: vec![Shard(Arc::clone(member))],
                view: None,
            }),
            Self::Cluster(cluster) => {
                let view = cluster.whole_view(within).await?;
                Ok(Shards {
                    all: view.members.iter().cloned().map(Shard).collect(),
                    view: Some(view),
                })
            }
        }
    }

    /// See [`super::Store::are_current`].
    pub fn are_current(&self, shards: &Shards) -> bool {
        match (self, &shards.view) {
            (Self::Cluster(cluster), Some(view)) => view.is_like(&cluster.view()),
            (Self::One { .. }, None) => true,
            _ => false,
        }
    }

    /// A connection that listens. What one server of a Cluster is told, all pass on.
    pub async fn listen(&self, within: Duration) -> Result<PubSub, Failure> {
        match self {
            Self::One { member, .. } => member.pool.dialer.listen().await,
            Self::Cluster(cluster) => cluster.any(within).await?.pool.dialer.listen().await,
        }
    }
}

impl Shard {
    /// Asks it something.
    pub(super) async fn ask<T: FromRedisValue>(
        &self,
        question: Cmd,
        within: Duration,
    ) -> Result<T, Failure> {
        let mut pipeline = redis::Pipeline::new();
        pipeline.ignore_errors().add_command(question);
        let answers = keyed::send(&self.0.pool, &pipeline, within).await?;
        let answer = answers.into_iter().next();
        let missing = || Failure::new(Kind::Protocol, "no answer");
        let unread = |_| Failure::new(Kind::Protocol, "an answer is not understood");
        redis::from_redis_value(answer.ok_or_else(missing)??).map_err(unread)
    }
}

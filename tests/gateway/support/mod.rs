//! What the tests are written with: a gateway process, scriptable backends, and a client that
//! sees and sends raw bytes.

pub mod authority;
pub mod client;
pub mod command;
pub mod dead_port;
pub mod gateway;
pub mod h2;
pub mod identity_provider;
pub mod metrics;
pub mod modern_origin;
pub mod name_server;
pub mod origin;
pub mod redis;
pub mod redis_cluster;
pub mod script;
pub mod secrets;
pub mod sentinel;
pub mod steps;
pub mod succession;
pub mod tls;
pub mod tokens;
pub mod wait;
pub mod wire;

pub use authority::Authority;
pub use client::{Client, Response};
pub use dead_port::DeadPort;
pub use gateway::Gateway;
pub use modern_origin::{Act, Asked, ModernOrigin};
pub use origin::{Origin, Request};
pub use redis::Redis;
pub use redis_cluster::RedisCluster;
pub use script::{Gate, Script};
pub use sentinel::{FakeSentinel, Sentinel};
pub use succession::Line;
pub use wait::{Finally, eventually};

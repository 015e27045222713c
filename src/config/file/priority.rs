//! What is written as `priority`, in a route.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// See [`Route::priority`](super::Route::priority).
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// Refused last: what people wait for, and what others depend on.
    Critical,
    /// Before `critical`.
    High,
    /// Before `high`.
    #[default]
    Normal,
    /// Refused first: what can be done later, such as reports and prefetching.
    Low,
}

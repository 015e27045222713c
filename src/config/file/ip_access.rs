//! What is written below `ip_access`, at the top and in a route.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::scalar::{List, Network};
use super::Texts;

/// See [`File::ip_access`](super::File::ip_access).
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct IpAccess {
    /// Networks and addresses whose clients are let in. With it or `allow_file`, everybody else is
    /// refused.
    #[schemars(extend("examples" = [["10.0.0.0/8", "192.0.2.1", "2001:db8::/32"]]))]
    pub allow: List<Network>,
    /// A file, or several, with more of them: one a line, comments behind `#` or `;`. A relative path
    /// begins at the configuration's folder.
    #[schemars(extend("examples" = ["offices.txt"]))]
    pub allow_file: Texts,
    /// Networks and addresses whose clients are refused, also those that are allowed.
    #[schemars(extend("examples" = [["203.0.113.0/24"]]))]
    pub deny: List<Network>,
    /// A file, or several, with more of them, as for `allow_file`.
    #[schemars(extend("examples" = ["blocked.txt", ["blocked.txt", "bogons.txt"]]))]
    pub deny_file: Texts,
}

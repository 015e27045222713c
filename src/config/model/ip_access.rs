//! What `ip_access` means: who may call by the client's address.

use ipnet::IpNet;

/// Lists of networks, those of files included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IpAccess {
    /// Who is let in; `None`: whoever is not denied.
    pub allow: Option<Vec<IpNet>>,
    /// Who is not, even if allowed.
    pub deny: Vec<IpNet>,
}

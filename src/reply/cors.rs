//! Why a web page of another origin may not call.

/// What of a preflight was not allowed: the `error_type` of bodies and logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CorsError {
    /// The page's origin.
    Origin,
    /// The method that it asks for.
    Method,
    /// A header that it would send.
    Header,
    /// That it comes from a public network.
    PrivateNetwork,
}

impl CorsError {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Origin => "cors_origin",
            Self::Method => "cors_method",
            Self::Header => "cors_header",
            Self::PrivateNetwork => "cors_private_network",
        }
    }

    pub(super) fn sentence(self) -> &'static str {
        match self {
            Self::Origin => "Pages of this origin may not call.",
            Self::Method => "Pages of other origins may not use this method.",
            Self::Header => "Pages of other origins may not send such a header.",
            Self::PrivateNetwork => "Pages of a public network may not call.",
        }
    }
}

//! What `auth` means: schemes, what routes ask for, and what backends are told.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderName, HeaderValue};

use super::super::pattern::Template;
use super::super::scalar::Secret;
use super::Der;

/// Authentication and authorisation.
#[derive(Clone, Debug, PartialEq)]
pub struct Auth {
    /// Every scheme; routes refer to them by index. Names are unique.
    pub schemes: Vec<Scheme>,
    /// Headers that tell backends who calls.
    pub identity_headers: Vec<(HeaderName, Template)>,
    /// How many good tokens and passwords are remembered.
    pub cache_entries: usize,
    /// The endpoint that tells a client what its token says.
    pub validate: Option<Validate>,
}

/// See [`Auth::validate`].
#[derive(Clone, Debug, PartialEq)]
pub struct Validate {
    /// Its path.
    pub path: String,
    /// What it asks for: a token of one of its schemes.
    pub policy: AuthPolicy,
}

/// One way of proving who one is.
#[derive(Clone, Debug, PartialEq)]
pub struct Scheme {
    /// What routes, logs and metrics call it.
    pub name: Arc<str>,
    /// Where it was written, as messages name it.
    pub key: String,
    /// Whether backends get the credential.
    pub forward: bool,
    /// Which way.
    pub kind: SchemeKind,
}

/// See [`Scheme::kind`].
#[derive(Clone, Debug, PartialEq)]
pub enum SchemeKind {
    /// JSON Web Tokens.
    Jwt(Box<JwtProvider>),
    /// API keys.
    ApiKeys(ApiKeys),
    /// User names and passwords.
    Basic(Basic),
    /// Certificates of clients.
    ClientCert(ClientCertScheme),
}

/// Where a credential is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialSource {
    /// In a header, behind this word if there is one.
    Header {
        /// The header.
        name: HeaderName,
        /// The word before the credential, compared without regard to case.
        scheme: Option<String>,
    },
    /// In a cookie of this name.
    Cookie(String),
}

/// A provider of tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct JwtProvider {
    /// What `iss` may be; empty: any that no other provider names.
    pub issuers: Vec<String>,
    /// What `aud` must contain one of; empty: whatever it is.
    pub audiences: Vec<String>,
    /// The names of the algorithms (RFC 7518); empty: those of the keys.
    pub algorithms: Vec<&'static str>,
    /// Public keys and certificates in PEM, each with the key it was written under.
    pub pem: Vec<(String, String)>,
    /// Shared secrets as bytes, each with the key it was written under.
    pub secrets: Vec<(String, SecretBytes)>,
    /// The key set.
    pub jwks: Option<Jwks>,
    /// What clocks may differ.
    pub clock_skew: Duration,
    /// Whether a token must have `exp`.
    pub require_expiry: bool,
    /// Claims that a token must have.
    pub required_claims: Vec<String>,
    /// What `typ` may be.
    pub types: Vec<String>,
    /// The claim with the roles; dots lead into objects.
    pub roles_claim: String,
    /// Where the token is looked for.
    pub sources: Vec<CredentialSource>,
    /// The longest token, in bytes.
    pub max_token_bytes: usize,
}

/// Bytes that are never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretBytes(pub Vec<u8>);

impl std::fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// Where a key set comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Jwks {
    /// A file, read already.
    File {
        /// The key it was written under.
        key: String,
        /// Its path.
        path: PathBuf,
        /// What is in it.
        bytes: Vec<u8>,
    },
    /// A URL.
    Url(Box<JwksUrl>),
}

/// A key set that is fetched.
#[derive(Clone, Debug, PartialEq)]
pub struct JwksUrl {
    /// The URL: `http` or `https`, with a host.
    pub url: http::Uri,
    /// Whom its certificate must come from, in DER; `None` for `http`.
    pub authorities: Option<Arc<[Der]>>,
    /// Between two fetches, unless the response says otherwise.
    pub refresh: Duration,
    /// The shortest time between two fetches.
    pub min_refresh: Duration,
    /// The longest time between two fetches.
    pub max_refresh: Duration,
    /// How long keys are used after they could last be fetched.
    pub max_stale: Duration,
    /// Between two fetches that unknown keys ask for.
    pub unknown_key_cooldown: Duration,
    /// What a fetch may take.
    pub timeout: Duration,
    /// The largest key set, in bytes.
    pub max_bytes: usize,
    /// Where keys are kept for the next start.
    pub cache_dir: Option<PathBuf>,
}

/// A scheme of API keys.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiKeys {
    /// Where the key is looked for.
    pub sources: Vec<CredentialSource>,
    /// The keys, of the configuration and of the file.
    pub keys: Vec<ApiKey>,
    /// Whether Redis is asked for those that are not among them.
    pub redis: bool,
}

/// An API key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    /// Whom it belongs to.
    pub name: Arc<str>,
    /// The SHA-256 of the key.
    pub hash: [u8; 32],
    /// What it may do.
    pub scopes: Vec<String>,
    /// What it is.
    pub roles: Vec<String>,
    /// When it ends.
    pub expires: Option<SystemTime>,
}

/// User names and passwords.
#[derive(Clone, Debug, PartialEq)]
pub struct Basic {
    /// The users, of the configuration and of the file; names are unique.
    pub users: Vec<BasicUser>,
}

/// A user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BasicUser {
    /// The name.
    pub name: Arc<str>,
    /// The hash of the password, of a kind that is known.
    pub hash: Secret,
    /// What the user may do.
    pub scopes: Vec<String>,
    /// What the user is.
    pub roles: Vec<String>,
}

/// Certificates of clients.
#[derive(Clone, Debug)]
pub struct ClientCertScheme {
    /// What must match somewhere in the subject.
    pub subject: Option<regex::Regex>,
    /// What must match somewhere in the alternative names.
    pub names: Option<regex::Regex>,
    /// What such clients may do.
    pub scopes: Vec<String>,
    /// What such clients are.
    pub roles: Vec<String>,
}

impl PartialEq for ClientCertScheme {
    fn eq(&self, other: &Self) -> bool {
        let text = |regex: &Option<regex::Regex>| regex.as_ref().map(|one| one.as_str().to_owned());
        text(&self.subject) == text(&other.subject)
            && text(&self.names) == text(&other.names)
            && self.scopes == other.scopes
            && self.roles == other.roles
    }
}

/// What a route asks of its clients.
#[derive(Clone, Debug, PartialEq)]
pub struct AuthPolicy {
    /// Indexes into [`Auth::schemes`]; never empty.
    pub schemes: Vec<usize>,
    /// Whether all of them must accept the client, rather than one.
    pub all: bool,
    /// Whether a client without a credential is let in.
    pub optional: bool,
    /// Scopes that the client must have.
    pub scopes: Vec<String>,
    /// Roles of which the client must have one; empty: none.
    pub roles: Vec<String>,
    /// Conditions that must hold.
    pub claims: Vec<ClaimCondition>,
    /// Whether what is open is ended when the token expires.
    pub close_on_expiry: bool,
    /// The value of `WWW-Authenticate` for a client that showed nothing, one for each field.
    pub challenges: Arc<[HeaderValue]>,
}

impl AuthPolicy {
    /// Asks for one of these schemes and nothing more.
    pub fn any_of(schemes: Vec<usize>, challenges: Arc<[HeaderValue]>) -> Self {
        Self {
            schemes,
            all: false,
            optional: false,
            scopes: Vec::new(),
            roles: Vec::new(),
            claims: Vec::new(),
            close_on_expiry: false,
            challenges,
        }
    }
}

/// A condition on a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimCondition {
    /// The claim; dots lead into objects.
    pub claim: String,
    /// What it must be.
    pub is: ClaimMatch,
}

/// See [`ClaimCondition::is`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimMatch {
    /// One of these texts, numbers or truth values, as they are written.
    OneOf(Vec<String>),
    /// A list with this item, or a text with this word.
    Contains(String),
    /// What this parameter of the path is.
    PathParam(String),
    /// There, whatever it is.
    Present,
    /// Not there.
    Absent,
}

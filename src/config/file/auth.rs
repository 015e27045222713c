//! What is written below `auth`, and below the `auth` of a route.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::scalar::{Duration, List, Secret, Size};
use super::{enabled, secs};

/// See [`File::auth`](super::File::auth).
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Auth {
    /// What routes without an `auth` of their own ask for: `none`, the name of a scheme, or a policy
    /// as routes have it. When it asks for anything, a route that is open to everyone has to say
    /// `auth: none`.
    #[schemars(extend("examples" = ["none", "main", { "any_of": ["main", "partners"] }]))]
    pub default: Option<RouteAuth>,
    /// The `realm` of `WWW-Authenticate`.
    pub realm: String,
    /// JSON Web Tokens: one provider, or a list of them. The token's issuer chooses among those that
    /// a route accepts.
    pub jwt: Option<OneOrMany<JwtProvider>>,
    /// API keys: one scheme, or a list of them.
    pub api_keys: Option<OneOrMany<ApiKeys>>,
    /// HTTP Basic authentication: one scheme, or a list of them.
    pub basic: Option<OneOrMany<Basic>>,
    /// Certificates of clients as identities: one scheme, or a list of them. Clients show them only
    /// where the listener's `client_auth` asks for them.
    pub client_cert: Option<OneOrMany<ClientCertScheme>>,
    /// Headers that tell backends who calls. Their values may have variables such as
    /// `{auth.subject}`. What clients send under these names is always taken away; one whose
    /// variables are all empty is not sent.
    #[schemars(extend("examples" = [{
        "x-user": "{auth.subject}",
        "x-scopes": "{auth.scopes}",
        "x-tenant": "{claim.tenant}",
    }]))]
    pub identity_headers: BTreeMap<String, String>,
    /// Tokens and passwords that were found good are remembered until they expire, so that they cost
    /// no check again.
    pub cache: AuthCache,
    /// The endpoint that tells a client what its token says.
    pub validate: Validate,
}

/// One of a kind, or several of them.
#[derive(Debug, Deserialize, Serialize)]
#[serde(untagged)]
pub enum OneOrMany<T> {
    /// A list.
    Many(List<T>),
    /// One, written without a list.
    One(Box<T>),
}

impl<T: JsonSchema> JsonSchema for OneOrMany<T> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("OneOrMany{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let (one, many) = (
            generator.subschema_for::<T>(),
            generator.subschema_for::<List<T>>(),
        );
        schemars::json_schema!({ "anyOf": [one, many] })
    }
}

impl<T> OneOrMany<T> {
    /// What was understood, each with its place in the list; without a place when there is none.
    pub fn iter(&self) -> impl Iterator<Item = (Option<usize>, &T)> {
        let (one, many) = match self {
            Self::One(one) => (Some(&**one), None),
            Self::Many(many) => (None, Some(many)),
        };
        let many = many.into_iter().flat_map(List::iter);
        let many = many.map(|(index, item)| (Some(index), item));
        one.into_iter().map(|one| (None, one)).chain(many)
    }
}

/// See [`Auth::cache`].
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AuthCache {
    /// How many are remembered; the ones used least make way. 0 remembers none.
    #[schemars(range(min = 0, max = 10_000_000))]
    pub entries: u32,
}

/// See [`Auth::validate`].
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Validate {
    /// Whether the gateway answers it, before routing. Only when a provider of tokens is configured.
    pub enabled: bool,
    /// Its path.
    pub path: String,
    /// The providers whose tokens it judges; all of them when left out.
    pub any_of: List<String>,
}

/// Where a credential is looked for. It has one of `header` and `cookie`.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CredentialSource {
    /// The header.
    #[schemars(extend("examples" = ["authorization"]))]
    pub header: Option<String>,
    /// The word before the credential in that header; `Bearer` for `authorization`, and none for
    /// others.
    pub scheme: Option<String>,
    /// The cookie.
    pub cookie: Option<String>,
}

/// One provider of tokens.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct JwtProvider {
    /// What routes call it.
    pub name: String,
    /// What `iss` must be: one text or several. When left out, the provider takes tokens of issuers
    /// that no other provider names.
    #[schemars(extend("examples" = ["https://id.example.com"]))]
    pub issuer: Texts,
    /// What `aud` must contain: one text or any of several. When left out, the audience is not looked
    /// at.
    pub audience: Texts,
    /// The algorithms that are accepted. When left out, those that the keys are made for.
    pub algorithms: List<JwtAlgorithm>,
    /// A JSON Web Key Set, from a URL or a file.
    pub jwks: Option<Jwks>,
    /// A public key or certificate, or several one after the other, in PEM. Best a reference.
    #[schemars(extend("examples" = ["file:jwt-public-key.pem"]))]
    pub public_key: Option<String>,
    /// Further ones, for the time of a rotation.
    pub public_keys: List<String>,
    /// A shared secret for HMAC, at least as long as its hash: 32 bytes for HS256.
    #[schemars(extend("examples" = ["${JWT_SECRET}"]))]
    pub secret: Option<Secret>,
    /// Further ones, for the time of a rotation.
    pub secrets: List<Secret>,
    /// How secrets are written.
    pub secret_encoding: SecretEncoding,
    /// What clocks may differ: `exp` is still good and `nbf` and `iat` are already good for that
    /// long.
    #[schemars(extend("x-min" = "0s", "x-max" = "10m"))]
    pub clock_skew: Duration,
    /// Whether a token without `exp` is refused.
    pub require_expiry: bool,
    /// Claims that a token must have, whatever their values.
    #[schemars(extend("examples" = [["sub", "jti"]]))]
    pub required_claims: List<String>,
    /// What `typ` may be, without `application/`, in any case. A token without it is good when `JWT` is
    /// among them.
    pub types: List<String>,
    /// The claim with the roles; dots lead into objects.
    #[schemars(extend("examples" = ["realm_access.roles"]))]
    pub roles_claim: String,
    /// Where the token is looked for. A request with more than one token is refused.
    pub token: List<CredentialSource>,
    /// The longest token.
    #[schemars(extend("x-min" = "256", "x-max" = "16KiB"))]
    pub max_token_size: Size,
    /// Whether backends get the token.
    pub forward: bool,
}

/// One text, or several.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Texts {
    /// One.
    One(String),
    /// Several.
    Many(List<String>),
}

impl Default for Texts {
    fn default() -> Self {
        Self::Many(List::default())
    }
}

impl Texts {
    /// What was understood.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        let (one, many) = match self {
            Self::One(one) => (Some(one), None),
            Self::Many(many) => (None, Some(many)),
        };
        let many = many.into_iter().flat_map(List::iter).map(|(_, text)| text);
        one.into_iter().chain(many).map(String::as_str)
    }
}

/// See [`JwtProvider::algorithms`]. The names are those of RFC 7518 and RFC 8037.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[allow(missing_docs, reason = "they are names of a standard")]
pub enum JwtAlgorithm {
    HS256,
    HS384,
    HS512,
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    EdDSA,
}

/// See [`JwtProvider::secret_encoding`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SecretEncoding {
    /// The bytes of the text.
    #[default]
    Text,
    /// Base64, of either alphabet, with or without padding.
    Base64,
    /// Hexadecimal digits.
    Hex,
}

/// See [`JwtProvider::jwks`]. It has one of `url` and `file`.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Jwks {
    /// Where the keys are fetched: an `https` URL, or an `http` one on a loopback address or with
    /// `insecure`.
    #[schemars(extend("examples" = ["https://id.example.com/.well-known/jwks.json"]))]
    pub url: Option<String>,
    /// The file with the keys. A relative path begins at the configuration's folder.
    pub file: Option<String>,
    /// Whether the URL may be `http`. Whoever is between can then make tokens.
    pub insecure: bool,
    /// A PEM file with the authorities for that URL. When left out, those of the system.
    pub ca: Option<String>,
    /// How long after a fetch the next one is due, unless the response says otherwise (`Cache-Control`,
    /// `Expires`).
    #[schemars(extend("x-min" = "1s", "x-max" = "30d"))]
    pub refresh: Duration,
    /// The shortest time until the next one is due, whatever the response says. After a failure, and for
    /// a token with an unknown key, keys are fetched sooner.
    #[schemars(extend("x-min" = "1s", "x-max" = "1d"))]
    pub min_refresh: Duration,
    /// The longest time until the next one is due, whatever the response says; half of `max_stale` if
    /// that is shorter.
    #[schemars(extend("x-min" = "1s", "x-max" = "30d"))]
    pub max_refresh: Duration,
    /// How long keys are used after they could last be fetched; then tokens cannot be judged, and are
    /// answered with 503.
    #[schemars(extend("x-min" = "2s", "x-max" = "365d"))]
    pub max_stale: Duration,
    /// The shortest time between two fetches that tokens with an unknown key ask for.
    #[schemars(extend("x-min" = "1s", "x-max" = "1h"))]
    pub unknown_key_cooldown: Duration,
    /// What a fetch may take in all.
    #[schemars(extend("x-min" = "100ms", "x-max" = "60s"))]
    pub timeout: Duration,
    /// The largest key set.
    #[schemars(extend("x-min" = "1KiB", "x-max" = "1MiB"))]
    pub max_size: Size,
    /// The folder in which keys are kept for the next start. A relative path begins at the
    /// configuration's folder. When left out, they are not.
    pub cache_dir: Option<String>,
}

/// One scheme of API keys.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ApiKeys {
    /// What routes call it.
    pub name: String,
    /// Where the key is looked for. A request with more than one key is refused.
    pub key: List<CredentialSource>,
    /// The keys, as `gateway keygen` prints them.
    pub keys: List<ApiKey>,
    /// A YAML file with further keys, a list as `keys` is. A relative path begins at the
    /// configuration's folder. A change takes effect without a reload being asked for.
    pub file: Option<String>,
    /// Whether keys that are not among these are looked for in Redis, as `apikey:{hash}`.
    pub redis: bool,
    /// Whether backends get the key.
    pub forward: bool,
}

/// One API key.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApiKey {
    /// Whom it belongs to: the subject of requests, in logs and headers.
    pub name: String,
    /// The SHA-256 of the key: `sha256:` and 64 hexadecimal digits.
    pub hash: Secret,
    /// What it may do.
    #[serde(default)]
    pub scopes: List<String>,
    /// What it is.
    #[serde(default)]
    pub roles: List<String>,
    /// When it ends: a date, at the end of that day in UTC, or a date and time in UTC (RFC 3339).
    #[schemars(extend("examples" = ["2030-01-31", "2030-01-31T12:00:00Z"]))]
    pub expires: Option<String>,
    /// Whether it is accepted.
    #[serde(default = "enabled")]
    pub enabled: bool,
}

/// One scheme of user names and passwords (RFC 7617).
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Basic {
    /// What routes call it.
    pub name: String,
    /// The users.
    pub users: List<BasicUser>,
    /// A file with further users, `name:hash` on each line, as `htpasswd -B` writes it. A relative
    /// path begins at the configuration's folder. A change takes effect without a reload being asked
    /// for.
    pub file: Option<String>,
    /// Whether backends get name and password.
    pub forward: bool,
}

/// One user.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BasicUser {
    /// The name, without a colon.
    pub name: String,
    /// The hash of the password: bcrypt (`$2b$…`, cost 4 to 14) or Argon2 (`$argon2id$…`, at most
    /// 128 MiB).
    pub hash: Secret,
    /// What the user may do.
    #[serde(default)]
    pub scopes: List<String>,
    /// What the user is.
    #[serde(default)]
    pub roles: List<String>,
}

/// Certificates of clients as identities.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClientCertScheme {
    /// What routes call it.
    pub name: String,
    /// A regular expression that matches somewhere in the subject, such as
    /// `CN=app,OU=payments,O=Example`.
    pub subject: Option<String>,
    /// A regular expression that matches somewhere in the alternative names, such as
    /// `DNS:app.example.com,URI:spiffe://example.com/app`.
    pub names: Option<String>,
    /// What such clients may do.
    pub scopes: List<String>,
    /// What such clients are.
    pub roles: List<String>,
}

/// What a route asks of its clients: `none`, the name of a scheme, or a policy.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum RouteAuth {
    /// `none`, or a scheme.
    Name(String),
    /// A policy.
    Policy(Box<AuthPolicy>),
}

/// What a route asks of its clients. It has one of `any_of` and `all_of`.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AuthPolicy {
    /// Schemes of which one must accept the client.
    pub any_of: List<String>,
    /// Schemes that must all accept the client. The first one says who it is; scopes and roles of all
    /// of them count.
    pub all_of: List<String>,
    /// Whether a client without any credential is let in, as nobody. A bad one is refused all the
    /// same.
    pub optional: bool,
    /// Scopes that the client must have, every one.
    #[schemars(extend("examples" = [["users.read"]]))]
    pub scopes: List<String>,
    /// Roles of which the client must have one.
    pub roles: List<String>,
    /// Conditions on claims of the token: every one must hold. Dots lead into objects.
    #[schemars(extend("examples" = [{
        "email_verified": "true",
        "tenant": { "path_param": "tenant" },
        "groups": { "contains": "staff" },
        "plan": { "one_of": ["gold", "silver"] },
    }]))]
    pub claims: BTreeMap<String, ClaimCondition>,
    /// Whether WebSockets and responses that are still under way are ended when the token expires.
    pub close_on_expiry: bool,
}

/// What a claim must be: exactly this text, number or truth value, or what the mapping says.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum ClaimCondition {
    /// Exactly this.
    Equals(String),
    /// One of the ways below.
    Other(OtherClaimCondition),
}

/// See [`ClaimCondition::Other`]. It has one of these keys.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OtherClaimCondition {
    /// The claim is a list with this item, or a text with this word among others.
    pub contains: Option<String>,
    /// The claim is one of these.
    pub one_of: List<String>,
    /// The claim is what this parameter of the path is.
    pub path_param: Option<String>,
    /// `true`: the claim is there, whatever it is. `false`: it is not.
    pub present: Option<bool>,
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            default: None,
            realm: "gateway".to_owned(),
            jwt: None,
            api_keys: None,
            basic: None,
            client_cert: None,
            identity_headers: BTreeMap::new(),
            cache: AuthCache::default(),
            validate: Validate::default(),
        }
    }
}

impl Default for AuthCache {
    fn default() -> Self {
        Self { entries: 100_000 }
    }
}

impl Default for Validate {
    fn default() -> Self {
        Self {
            enabled: true,
            path: "/api/validate".to_owned(),
            any_of: List::default(),
        }
    }
}

impl Default for JwtProvider {
    fn default() -> Self {
        Self {
            name: "jwt".to_owned(),
            issuer: Texts::default(),
            audience: Texts::default(),
            algorithms: List::default(),
            jwks: None,
            public_key: None,
            public_keys: List::default(),
            secret: None,
            secrets: List::default(),
            secret_encoding: SecretEncoding::default(),
            clock_skew: secs(30),
            require_expiry: true,
            required_claims: List::default(),
            types: vec!["JWT".to_owned(), "at+jwt".to_owned()].into(),
            roles_claim: "roles".to_owned(),
            token: vec![CredentialSource {
                header: Some("authorization".to_owned()),
                ..CredentialSource::default()
            }]
            .into(),
            max_token_size: Size(8 << 10),
            forward: true,
        }
    }
}

impl Default for Jwks {
    fn default() -> Self {
        Self {
            url: None,
            file: None,
            insecure: false,
            ca: None,
            refresh: secs(300),
            min_refresh: secs(10),
            max_refresh: secs(86_400),
            max_stale: secs(86_400),
            unknown_key_cooldown: secs(10),
            timeout: secs(5),
            max_size: Size(1 << 20),
            cache_dir: None,
        }
    }
}

impl Default for ApiKeys {
    fn default() -> Self {
        Self {
            name: "api_key".to_owned(),
            key: vec![CredentialSource {
                header: Some("x-api-key".to_owned()),
                ..CredentialSource::default()
            }]
            .into(),
            keys: List::default(),
            file: None,
            redis: false,
            forward: false,
        }
    }
}

impl Default for Basic {
    fn default() -> Self {
        Self {
            name: "basic".to_owned(),
            users: List::default(),
            file: None,
            forward: false,
        }
    }
}

impl Default for ClientCertScheme {
    fn default() -> Self {
        Self {
            name: "client_cert".to_owned(),
            subject: None,
            names: None,
            scopes: List::default(),
            roles: List::default(),
        }
    }
}

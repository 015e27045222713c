//! Tokens and certificates: who is let in, who is not, and what backends and clients are told.

use serde_json::json;

use crate::support::client::{Response, get, request};
use crate::support::tokens::{SECRET, Signer, key_set, now};
use crate::support::{Gateway, Origin};

const ISSUER: &str = "https://id.test";

/// One provider with a shared secret, and routes that ask for more and less.
fn config(origin: &Origin) -> String {
    format!(
        "server: {{ threads: 1, watch: false }}
auth:
  default: main
  jwt:
    name: main
    issuer: {ISSUER}
    audience: [api]
    secret: '{SECRET}'
  identity_headers:
    x-user: '{{auth.subject}}'
    x-scopes: '{{auth.scopes}}'
    x-tenant: '{{claim.org.tenant}}'
upstreams: {{ u: {{ backends: ['{}'] }} }}
routes:
  - {{ name: all, upstream: u }}
  - {{ name: open, match: {{ path: /open }}, auth: none, upstream: u }}
  - {{ name: maybe, match: {{ path: /maybe }}, auth: {{ any_of: [main], optional: true }}, upstream: u }}
  - {{ name: write, match: {{ path: /write }}, auth: {{ any_of: [main], scopes: [a.read, a.write] }}, upstream: u }}
  - {{ name: admin, match: {{ path: /admin }}, auth: {{ any_of: [main], roles: [admin, root] }}, upstream: u }}
  - name: tenant
    match: {{ path: '/t/:tenant' }}
    auth:
      any_of: [main]
      claims: {{ org.tenant: {{ path_param: tenant }}, verified: 'true' }}
    upstream: u",
        origin.address()
    )
}

fn signer() -> Signer {
    Signer::hs256(SECRET)
}

fn claims() -> serde_json::Value {
    json!({ "iss": ISSUER, "aud": ["other", "api"], "sub": "alice" })
}

fn with(token: &str, gateway: &Gateway, path: &str) -> Response {
    let field = format!("Authorization: Bearer {token}");
    request(gateway.addr(), "GET", path, &[&field], b"")
}

#[track_caller]
fn assert_refused(answer: &Response, status: u16, error_type: &str) {
    let kind = match status {
        401 => "unauthorized",
        403 => "forbidden",
        _ => "auth_unavailable",
    };
    answer.assert_refusal(status, kind);
    assert_eq!(answer.json()["error_type"], error_type);
}

#[test]
fn a_good_token_is_let_in_and_the_backend_is_told_who_it_is() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&config(&origin));
    let mut claims = claims();
    claims["scope"] = "a.read a.write".into();
    claims["org"] = json!({ "tenant": "blue" });
    let token = signer().token(claims);
    let forged = [
        &format!("Authorization: bearer {token}"),
        "X-User: root",
        "X-Tenant: red",
        "X-Tenant: green",
    ];
    let answer = request(gateway.addr(), "GET", "/", &forged, b"");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen = origin.only_request();
    assert_eq!(seen.header("x-user"), Some("alice"));
    assert_eq!(seen.header("x-scopes"), Some("a.read a.write"));
    assert_eq!(seen.header("x-tenant"), Some("blue"));
    assert_eq!(
        seen.header("authorization"),
        Some(&*format!("bearer {token}"))
    );
    let line = gateway.wait_access(|line| line["path"] == "/");
    assert_eq!(line["auth_status"], "success");
    let labels = [("method", "jwt"), ("result", "success"), ("error_type", "")];
    assert_eq!(gateway.metric("gateway_auth_attempts_total", &labels), 1.0);
}

#[test]
fn whoever_shows_nothing_is_told_how_to() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&config(&origin));
    let answer = get(gateway.addr(), "/");
    assert_refused(&answer, 401, "missing");
    assert_eq!(
        answer.header("www-authenticate"),
        Some("Bearer realm=\"gateway\"")
    );
    let line = gateway.wait_access(|line| line["path"] == "/");
    assert_eq!(line["auth_status"], "failure");
    assert_eq!(line["error_type"], "missing");
    assert_eq!(origin.requests(), 0);
    assert_eq!(get(gateway.addr(), "/open").status, 200);
    assert_eq!(
        gateway.wait_access(|line| line["path"] == "/open")["auth_status"],
        "none"
    );
    let refused = [("reason", "unauthorized")];
    assert_eq!(gateway.metric("gateway_http_refusals_total", &refused), 1.0);
}

#[test]
fn an_identity_is_never_taken_from_a_client() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&config(&origin));
    for path in ["/open", "/maybe"] {
        let answer = request(gateway.addr(), "GET", path, &["X-User: root"], b"");
        assert_eq!(answer.status, 200);
    }
    for seen in origin.seen() {
        assert_eq!(seen.header("x-user"), None);
    }
}

#[test]
fn a_route_may_be_optional_but_never_takes_a_bad_token() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&config(&origin));
    assert_eq!(get(gateway.addr(), "/maybe").status, 200);
    assert_eq!(
        with(&signer().token(claims()), &gateway, "/maybe").status,
        200
    );
    let other = Signer::hs256("another secret of thirty-two byt");
    assert_refused(
        &with(&other.token(claims()), &gateway, "/maybe"),
        401,
        "bad_signature",
    );
}

#[test]
fn every_kind_of_bad_token_is_told_apart() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&config(&origin));
    let changed = |key: &str, value: serde_json::Value| {
        let mut claims = claims();
        claims[key] = value;
        signer().token(claims)
    };
    let header = |header: serde_json::Value| {
        let mut claims = claims();
        claims["exp"] = (now() + 60).into();
        signer().sign(&header, &claims)
    };
    for (token, error) in [
        ("abc".to_owned(), "malformed"),
        ("a.b.c".to_owned(), "malformed"),
        (changed("exp", (now() - 3600).into()), "expired"),
        (changed("exp", (now() - 31).into()), "expired"),
        (changed("nbf", (now() + 3600).into()), "not_yet_valid"),
        (changed("iss", "https://other.test".into()), "wrong_issuer"),
        (changed("aud", "other".into()), "wrong_audience"),
        (header(json!({ "alg": "none" })), "unsupported_algorithm"),
        (header(json!({ "alg": "HS512" })), "unsupported_algorithm"),
        (
            header(json!({ "alg": "HS256", "typ": "logout+jwt" })),
            "wrong_type",
        ),
        (
            header(json!({ "alg": "HS256", "jku": "https://evil.test" })),
            "malformed",
        ),
        (
            header(json!({ "alg": "HS256", "crit": ["exp"] })),
            "malformed",
        ),
        ("a".repeat(9000), "too_large"),
    ] {
        let answer = with(&token, &gateway, "/");
        assert_eq!(answer.json()["error_type"], error, "{token}");
        assert_refused(&answer, 401, error);
        let challenge = answer.header("www-authenticate").unwrap_or_default();
        assert!(challenge.contains("error=\"invalid_token\""), "{challenge}");
        let labels = [
            ("method", "jwt"),
            ("result", "failure"),
            ("error_type", error),
        ];
        assert!(
            gateway.metric("gateway_auth_attempts_total", &labels) >= 1.0,
            "{error}"
        );
    }
    // Within the skew.
    assert_eq!(
        with(&changed("exp", (now() - 10).into()), &gateway, "/").status,
        200
    );
    assert_eq!(origin.requests(), 1);
}

#[test]
fn more_than_one_token_is_refused() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&config(&origin));
    let token = signer().token(claims());
    let field = format!("Authorization: Bearer {token}");
    let answer = request(gateway.addr(), "GET", "/", &[&field, &field], b"");
    assert_refused(&answer, 401, "ambiguous");
    let challenge = answer.header("www-authenticate").unwrap_or_default();
    assert!(challenge.contains("invalid_request"), "{challenge}");
    assert_eq!(origin.requests(), 0);
}

#[test]
fn scopes_roles_and_claims_decide_who_may() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&config(&origin));
    let token = |more: serde_json::Value| {
        let mut claims = claims();
        for (key, value) in more.as_object().unwrap() {
            claims[key] = value.clone();
        }
        signer().token(claims)
    };
    let read = token(json!({ "scope": "a.read" }));
    let answer = with(&read, &gateway, "/write");
    assert_refused(&answer, 403, "insufficient_scope");
    let challenge = answer.header("www-authenticate").unwrap_or_default();
    assert!(
        challenge.contains("scope=\"a.read a.write\""),
        "{challenge}"
    );
    let both = token(json!({ "scp": ["a.write", "x", "a.read"] }));
    assert_eq!(with(&both, &gateway, "/write").status, 200);
    let user = token(json!({ "roles": ["user"] }));
    assert_refused(&with(&user, &gateway, "/admin"), 403, "insufficient_role");
    let root = token(json!({ "roles": ["root"] }));
    assert_eq!(with(&root, &gateway, "/admin").status, 200);
    let blue = token(json!({ "org": { "tenant": "blue" }, "verified": true }));
    assert_eq!(with(&blue, &gateway, "/t/blue").status, 200);
    assert_refused(&with(&blue, &gateway, "/t/red"), 403, "claim_mismatch");
    let unverified = token(json!({ "org": { "tenant": "blue" }, "verified": false }));
    assert_refused(
        &with(&unverified, &gateway, "/t/blue"),
        403,
        "claim_mismatch",
    );
}

#[test]
fn a_token_can_be_asked_what_it_says() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&config(&origin));
    let mut claims = claims();
    claims["scope"] = "a b".into();
    claims["exp"] = (now() + 100).into();
    let answer = with(&signer().token(claims.clone()), &gateway, "/api/validate");
    assert_eq!(answer.status, 200);
    let said = answer.json();
    assert_eq!(said["subject"], "alice");
    assert_eq!(said["scopes"], json!(["a", "b"]));
    assert_eq!(said["expires_at"], claims["exp"]);
    assert_refused(&get(gateway.addr(), "/api/validate"), 401, "missing");
    assert_refused(&with("x", &gateway, "/api/validate"), 401, "malformed");
    let delete = request(gateway.addr(), "DELETE", "/api/validate", &[], b"");
    delete.assert_refusal(405, "method_not_allowed");
    assert_eq!(origin.requests(), 0);
}

#[test]
fn every_algorithm_works_with_its_key_alone() {
    let signers = [
        Signer::es256("e"),
        Signer::es384("f"),
        Signer::rs256("r"),
        Signer::ps256("p"),
        Signer::ed25519("d"),
    ];
    let set = key_set(&signers.each_ref());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.json");
    std::fs::write(&file, set.to_string()).unwrap();
    let gateway = Gateway::start(&format!(
        "server: {{ threads: 1 }}
auth: {{ default: jwt, jwt: {{ jwks: {{ file: '{}' }} }} }}
routes: [{{ respond: {{ body: in }} }}]",
        file.display()
    ));
    for signer in &signers {
        let good = signer.token(json!({ "sub": "a" }));
        assert_eq!(
            with(&good, &gateway, "/").status,
            200,
            "{:?}",
            signer.key_id
        );
        let mut stranger = Signer::es256("e");
        stranger.key_id.clone_from(&signer.key_id);
        let answer = with(&stranger.token(json!({ "sub": "a" })), &gateway, "/");
        assert_eq!(answer.status, 401);
    }
    // The public key is no secret: nobody who knows it can sign by it.
    let confused = Signer::hs256(&signers[2].public_pem());
    let answer = with(&confused.token(json!({ "sub": "a" })), &gateway, "/");
    assert_eq!(answer.status, 401);
    let unknown = Signer::es256("nobody").token(json!({}));
    assert_refused(&with(&unknown, &gateway, "/"), 401, "unknown_key");
}

#[test]
fn the_issuer_chooses_among_providers() {
    let (first, second) = (Signer::es256("k"), Signer::es256("k"));
    let provider = |name: &str, signer: &Signer| {
        let pem = signer.public_pem().replace('\n', "\n      ");
        format!("  - name: {name}\n    issuer: {name}\n    public_key: |\n      {pem}")
    };
    let gateway = Gateway::start(&format!(
        "server: {{ threads: 1 }}
auth:
  jwt:
{}
{}
routes:
  - {{ match: {{ path: /both }}, auth: {{ any_of: [one, two] }}, respond: {{ body: '' }} }}
  - {{ match: {{ path: /one }}, auth: one, respond: {{ body: '' }} }}",
        provider("one", &first).trim_end(),
        provider("two", &second).trim_end(),
    ));
    let (one, two) = (
        first.token(json!({ "iss": "one" })),
        second.token(json!({ "iss": "two" })),
    );
    for (token, path, status) in [
        (&one, "/both", 200),
        (&two, "/both", 200),
        (&one, "/one", 200),
        (&two, "/one", 401),
    ] {
        assert_eq!(with(token, &gateway, path).status, status, "{path}");
    }
    let crossed = second.token(json!({ "iss": "one" }));
    assert_refused(&with(&crossed, &gateway, "/both"), 401, "bad_signature");
}

#[test]
fn tokens_come_from_cookies_and_headers_of_choice_and_can_be_kept_from_backends() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&format!(
        "server: {{ threads: 1 }}
auth:
  default: jwt
  jwt:
    secret: '{SECRET}'
    token: [{{ header: x-token }}, {{ cookie: session }}]
    forward: false
routes: [{{ upstream: 'http://{}' }}]",
        origin.address()
    ));
    let token = signer().token(json!({ "sub": "a" }));
    let header = format!("X-Token: {token}");
    let cookie = format!("Cookie: a=1; session={token}; b=2");
    for field in [&header, &cookie] {
        let answer = request(gateway.addr(), "GET", "/", &[field], b"");
        assert_eq!(answer.status, 200, "{field}");
    }
    let seen = origin.seen();
    assert_eq!(seen[0].header("x-token"), None);
    assert_eq!(seen[1].header("cookie"), Some("a=1; b=2"));
    let both = request(gateway.addr(), "GET", "/", &[&header, &cookie], b"");
    assert_refused(&both, 401, "ambiguous");
    let bearer = format!("Authorization: Bearer {token}");
    let elsewhere = request(gateway.addr(), "GET", "/", &[&bearer], b"");
    assert_refused(&elsewhere, 401, "missing");
}

#[test]
fn nothing_of_a_credential_is_logged() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&config(&origin));
    let good = signer().token(claims());
    let bad = Signer::hs256("another secret of thirty-two byt").token(claims());
    for token in [&good, &bad] {
        with(token, &gateway, "/");
        with(token, &gateway, "/api/validate");
    }
    gateway.wait_access(|line| line["path"] == "/api/validate" && line["status_code"] == 401);
    let written = [gateway.log_lines(), gateway.output_lines()]
        .concat()
        .join("\n");
    for secret in [SECRET, &good, &bad] {
        assert!(!written.contains(secret));
        let signature = secret.rsplit('.').next().unwrap();
        assert!(!written.contains(signature));
    }
}

#[test]
fn a_configuration_that_would_let_the_wrong_ones_in_is_refused() {
    for (auth, route, told) in [
        (
            "",
            "auth: main",
            "auth: `main` is no scheme below `auth`, expected a scheme below `auth`",
        ),
        ("jwt: { secret: tiny }", "", "auth.jwt.secret: "),
        ("jwt: { name: main }", "", "auth.jwt: has no key"),
        ("jwt: { public_key: abc }", "", "auth.jwt.public_key: "),
        (
            "jwt: { jwks: { url: 'http://id.test/keys' } }",
            "",
            "auth.jwt.jwks.url: is not encrypted",
        ),
        (
            "jwt: [{ name: a, secret: 'a secret of thirty-two bytes, ok' }, { name: a, secret: 'a secret of thirty-two bytes, ok' }]",
            "",
            "auth.jwt[1].name: ",
        ),
        (
            "jwt: { name: main, secret: 'a secret of thirty-two bytes, ok' }",
            "auth: { any_of: [mian] }",
            "did you mean `main`",
        ),
        (
            "jwt: { name: main, secret: 'a secret of thirty-two bytes, ok' }",
            "auth: { scopes: [a] }",
            "names no scheme",
        ),
        (
            "jwt: { name: main, secret: 'a secret of thirty-two bytes, ok' }",
            "auth: { any_of: [main], claims: { a: { path_param: x } } }",
            "is not in every path of the route",
        ),
        (
            "jwt: { name: main, secret: 'a secret of thirty-two bytes, ok' }",
            "auth: { any_of: [main], optional: true, scopes: [a] }",
            "auth.optional: ",
        ),
    ] {
        let text = format!(
            "auth: {{ {auth} }}\nroutes: [{{ {route} {comma} respond: {{ body: x }} }}]",
            comma = if route.is_empty() { "" } else { "," }
        );
        let folder = crate::support::gateway::config_directory(&text);
        let file = folder.path().join("gateway.yaml");
        let finished = Gateway::command(&["-t", "-c", file.to_str().unwrap()]);
        assert!(finished.code == Some(1), "{text}");
        let output = finished.output();
        assert!(output.contains(told), "{text}\n{output}");
        for secret in ["thirty-two", "tiny", "abc`"] {
            assert!(!output.contains(secret), "{output}");
        }
    }
}

//! Revoking tokens: by operators, by hand in Redis, on every instance within a second, through
//! restarts of Redis, reloads and upgrades.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::client::{get, request};
use crate::support::{DeadPort, Gateway, Line, Redis, Response, eventually};

const ROUTES: &str = "routes: [{ name: a, respond: {} }]";
pub const TOKEN: &str = "open-sesame";
/// What the service promises; the machine of the tests may be slower.
const WITHIN: Duration = Duration::from_secs(1);

fn text(redis: Option<&Redis>) -> String {
    let redis = redis.map(|redis| format!("redis: {{ url: '{}', pool_size: 2 }}\n", redis.url()));
    format!(
        "server: {{ threads: 1, watch: false, upgrade_socket: upgrade.sock }}\nadmin: {{ address: 127.0.0.1:0, token: {TOKEN} }}\n{}{ROUTES}",
        redis.unwrap_or_default()
    )
}

fn alone() -> Gateway {
    Gateway::start(&text(None))
}

/// Instances that share a store, and know that.
fn instances(redis: &Redis, count: usize) -> Vec<Gateway> {
    let all: Vec<_> = (0..count)
        .map(|_| Gateway::start(&text(Some(redis))))
        .collect();
    for gateway in &all {
        eventually("the list is in sync", || in_sync(gateway));
    }
    all
}

pub fn in_sync(gateway: &Gateway) -> bool {
    gateway.status()["revocations"]["in_sync"] == true
}

#[track_caller]
pub fn revoke(gateway: &Gateway, body: &str) -> Value {
    let answer = gateway.call("/revocations", TOKEN, body);
    assert!(matches!(answer.status, 200 | 202), "{}", answer.text());
    answer.json()
}

pub fn lift(gateway: &Gateway, what: &str) -> Response {
    let header = format!("Authorization: Bearer {TOKEN}");
    request(
        gateway.admin(),
        "DELETE",
        &format!("/revocations{what}"),
        &[&header],
        b"",
    )
}

pub fn is_revoked(gateway: &Gateway, jti: &str) -> bool {
    get(gateway.admin(), &format!("/revocations?jti={jti}")).json()["revoked"] == true
}

/// Asserts that something takes no longer than it may. A machine that is busy otherwise has several
/// tries.
#[track_caller]
fn assert_within(mut try_it: impl FnMut(usize) -> Duration) {
    let tries: Vec<_> = (0..10)
        .map(&mut try_it)
        .take_while(|took| *took >= WITHIN)
        .collect();
    assert!(tries.len() < 10, "{tries:?}");
}

/// What `jti` takes to reach all of them.
#[track_caller]
fn reach(all: &[Gateway], jti: &str) -> Duration {
    let began = Instant::now();
    eventually(jti, || all.iter().all(|gateway| is_revoked(gateway, jti)));
    began.elapsed()
}

#[test]
fn a_node_of_its_own_keeps_a_list_of_its_own() {
    let gateway = alone();
    let answer = revoke(&gateway, "{\"jti\": \"a\", \"expires_in\": \"1h\"}");
    assert_eq!(answer["redis"], "not_configured");
    assert_eq!(answer["result"], "revoked");
    assert!(is_revoked(&gateway, "a") && !is_revoked(&gateway, "b"));
    revoke(
        &gateway,
        "{\"subject\": \"alice\", \"issued_before\": 1600000000}",
    );
    let shown = get(gateway.admin(), "/revocations?subject=alice").json();
    assert_eq!(shown["issued_before"], "2020-09-13T12:26:40Z");
    let counts = get(gateway.admin(), "/revocations").json();
    assert_eq!(
        (&counts["tokens"], &counts["subjects"]),
        (&1.into(), &1.into())
    );
    assert!(!counts.to_string().contains("alice"));
    gateway.wait_metric("gateway_revocations", &[("kind", "token")], 1.0);
    gateway.wait_metric("gateway_revocations", &[("kind", "subject")], 1.0);
    assert_eq!(lift(&gateway, "/a").status, 200);
    assert_eq!(lift(&gateway, "?subject=alice").status, 200);
    assert!(!is_revoked(&gateway, "a"));
    let again = lift(&gateway, "/a");
    assert_eq!(
        (again.status, &again.json()["error"]),
        (404, &"not_revoked".into())
    );
    gateway.wait_metric("gateway_revocations", &[("kind", "token")], 0.0);
}

#[test]
fn a_token_is_revoked_by_what_is_in_it() {
    let gateway = alone();
    // {"jti":"from-token","exp":4102444800}, with a signature of nobody.
    let token = "e30.eyJqdGkiOiJmcm9tLXRva2VuIiwiZXhwIjo0MTAyNDQ0ODAwfQ.c2ln";
    let answer = revoke(&gateway, &format!("{{\"token\": \"{token}\"}}"));
    assert_eq!(answer["jti"], "from-token");
    assert_eq!(answer["expires_at"], "2100-01-01T00:00:00Z");
    assert!(is_revoked(&gateway, "from-token"));
    let log = gateway.log_lines().join("\n");
    assert!(!log.contains(token), "{log}");
}

#[test]
fn only_who_shows_the_token_may_revoke_and_only_in_clear_words() {
    let gateway = alone();
    let body = "{\"jti\": \"a\"}";
    assert_eq!(gateway.call("/revocations", "wrong", body).status, 401);
    let unasked = request(gateway.admin(), "DELETE", "/revocations/a", &[], b"");
    assert_eq!(unasked.status, 401);
    for body in [
        "",
        "{}",
        "{\"jti\": 1}",
        "{\"jti\": \"a\", \"subject\": \"b\"}",
    ] {
        let answer = gateway.call("/revocations", TOKEN, body);
        assert_eq!(answer.status, 400, "{body}");
        assert_eq!(answer.json()["error"], "bad_request");
    }
    assert_eq!(lift(&gateway, "").status, 400);
    assert_eq!(gateway.call("/revocations/a", TOKEN, body).status, 405);
    assert_eq!(get(gateway.admin(), "/revocations?x=1").status, 400);
    let put = request(gateway.admin(), "PUT", "/revocations", &[], b"");
    assert_eq!(put.header("allow"), Some("GET, HEAD, POST, DELETE"));
    assert!(!is_revoked(&gateway, "a"));
    assert_eq!(gateway.call("/reload", TOKEN, "").status, 200);
}

#[test]
fn what_one_instance_revokes_three_know_within_a_second() {
    let redis = Redis::start();
    let all = instances(&redis, 3);
    let answer = revoke(&all[0], "{\"jti\": \"one\", \"expires_in\": 600}");
    assert_eq!(answer["redis"], "stored");
    reach(&all, "one");
    let life: i64 = redis.ask(&["TTL", "revoked:one"]).parse().unwrap();
    assert!((500..=600).contains(&life), "{life}");
    assert_within(|turn| {
        let jti = format!("quick-{turn}");
        revoke(&all[0], &format!("{{\"jti\": \"{jti}\"}}"));
        reach(&all, &jti)
    });
    revoke(&all[2], "{\"subject\": \"bob\"}");
    eventually("the subject is known", || {
        all.iter()
            .all(|gateway| gateway.status()["revocations"]["subjects"] == 1)
    });
    assert!(all[0].metric("gateway_revocations_pushed_total", &[]) >= 2.0);
    assert!(all[1].metric("gateway_revocations_received_total", &[]) >= 3.0);
    let age = all[1].metric("gateway_revocations_sync_age_seconds", &[]);
    assert!(age < 20.0, "{age}");
    assert_eq!(lift(&all[1], "/one").status, 200);
    eventually("it is taken back everywhere", || {
        all.iter().all(|gateway| !is_revoked(gateway, "one"))
    });
    assert_eq!(redis.ask(&["EXISTS", "revoked:one"]), "0");
}

#[test]
fn a_revocation_reaches_all_right_after_redis_was_restarted_empty() {
    let mut redis = Redis::start();
    let all = instances(&redis, 3);
    revoke(&all[0], "{\"jti\": \"before\"}");
    reach(&all, "before");
    assert_within(|turn| {
        redis.stop();
        eventually("it is gone", || all.iter().all(|gateway| !in_sync(gateway)));
        let meanwhile = format!("meanwhile-{turn}");
        let answer = revoke(&all[1], &format!("{{\"jti\": \"{meanwhile}\"}}"));
        assert_eq!(answer["redis"], "pending");
        assert!(is_revoked(&all[1], &meanwhile) && !is_revoked(&all[2], &meanwhile));
        redis.start_again();
        let began = Instant::now();
        let after = format!("after-{turn}");
        revoke(&all[2], &format!("{{\"jti\": \"{after}\"}}"));
        reach(&all, &after);
        reach(&all, &meanwhile);
        began.elapsed()
    });
    for jti in ["before", "meanwhile-0", "after-0"] {
        eventually("redis has it again", || {
            redis.ask(&["EXISTS", &format!("revoked:{jti}")]) == "1"
        });
    }
    let late = instances(&redis, 1);
    eventually("whoever comes later knows all", || {
        ["before", "meanwhile-0", "after-0"]
            .iter()
            .all(|jti| is_revoked(&late[0], jti))
    });
}

#[test]
fn a_key_that_was_set_by_hand_takes_effect() {
    let redis = Redis::start();
    redis.ask(&["SET", "revoked:early", "by hand", "EX", "600"]);
    redis.ask(&["SADD", "revoked:odd", "x"]);
    redis.ask(&["SET", "revoked_subject:eve", "1600000000"]);
    for key in 0..500 {
        redis.ask(&["SET", &format!("other:{key}"), "x"]);
    }
    let all = instances(&redis, 1);
    assert!(is_revoked(&all[0], "early") && is_revoked(&all[0], "odd"));
    let eve = get(all[0].admin(), "/revocations?subject=eve").json();
    assert_eq!(eve["issued_before"], "2020-09-13T12:26:40Z");
    assert!(eve["expires_at"].is_null());
    redis.ask(&["SET", "revoked:late", "1"]);
    reach(&all, "late");
    assert_eq!(lift(&all[0], "/late").status, 200);
    assert_eq!(redis.ask(&["EXISTS", "revoked:late"]), "0");
}

#[test]
fn a_message_that_got_lost_is_read_later() {
    let redis = Redis::start();
    let all = instances(&redis, 2);
    let until = 4_102_444_800_u64;
    // A machine that stalls may be late once.
    let took: Vec<_> = (0..3)
        .map(|turn| {
            // Written to the stream and not published, as if the message had been lost.
            let token = format!("lost-{turn}");
            let message =
                format!("{{\"op\":\"revoke\",\"token\":\"{token}\",\"until\":{until},\"at\":1}}");
            redis.ask(&["XADD", "revocations:log", "*", "m", &message]);
            reach(&all, &token)
        })
        .collect();
    assert!(
        took.iter().any(|took| *took < Duration::from_secs(8)),
        "{took:?}: that was the look at all keys"
    );
}

#[test]
fn what_others_publish_is_not_believed_blindly() {
    let redis = Redis::start();
    let all = instances(&redis, 1);
    for nonsense in ["", "x", "{}", "{\"op\":\"revoke\"}", "[1]"] {
        redis.ask(&["PUBLISH", "revocations", nonsense]);
    }
    revoke(&all[0], "{\"jti\": \"still-here\"}");
    reach(&all, "still-here");
    assert_eq!(redis.ask(&["EXISTS", "revoked:still-here"]), "1");
}

#[test]
fn a_lost_key_is_written_again_and_does_not_let_anybody_in() {
    let redis = Redis::start();
    let all = instances(&redis, 2);
    revoke(&all[0], "{\"jti\": \"kept\", \"expires_in\": 600}");
    reach(&all, "kept");
    redis.ask(&["FLUSHALL"]);
    eventually("it is written again", || {
        redis.ask(&["EXISTS", "revoked:kept"]) == "1"
    });
    assert!(all.iter().all(|gateway| is_revoked(gateway, "kept")));
    let life: i64 = redis.ask(&["TTL", "revoked:kept"]).parse().unwrap();
    assert!((500..=600).contains(&life), "{life}");
}

#[test]
fn without_the_store_it_is_revoked_here_and_cannot_be_taken_back() {
    let port = DeadPort::refusing();
    let url = format!("redis: {{ url: 'redis://{}' }}\n", port.address());
    let gateway = Gateway::start(&format!("{url}{}", text(None)));
    let answer = gateway.call("/revocations", TOKEN, "{\"jti\": \"a\"}");
    assert_eq!(
        (answer.status, &answer.json()["redis"]),
        (202, &"pending".into())
    );
    assert!(is_revoked(&gateway, "a"));
    let refused = lift(&gateway, "/a");
    assert_eq!(
        (refused.status, &refused.json()["error"]),
        (503, &"redis_unavailable".into())
    );
    assert!(is_revoked(&gateway, "a"), "everywhere or not at all");
}

#[test]
fn a_reload_and_an_upgrade_forget_nothing() {
    let mut line = Line::of(alone());
    revoke(&line.first, "{\"jti\": \"a\"}");
    line.rewrite(&format!("{}\n# again\n", line.configuration()));
    assert_eq!(
        line.first.call("/reload", TOKEN, "").json()["result"],
        "reloaded"
    );
    assert!(is_revoked(&line.first, "a"));
    revoke(&line.first, "{\"subject\": \"bob\"}");
    line.upgrade();
    eventually("the successor answers, and knows", || {
        let status = get(line.first.admin(), "/status").json();
        status["config"]["generation"] == 3
            && is_revoked(&line.first, "a")
            && status["revocations"]["subjects"] == 1
    });
}

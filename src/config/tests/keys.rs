//! API keys and users: what is understood, what is refused, and that no hash is ever shown.

use std::time::{Duration, SystemTime};

use super::super::model::{ApiKeys, Basic, SchemeKind};
use super::*;

const ONE: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";
const TWO: &str = "sha256:2222222222222222222222222222222222222222222222222222222222222222";
const BCRYPT: &str = "$2y$05$L6Bc/AlTQHyd9liGgGEZyOFLPHNgyxeEPfgYfBCVxJ7JIlwxyVU3u";
const ROUTES: &str = "routes: [{ respond: {} }]\n";

/// A configuration with these keys below `auth`, and the files that it names.
fn read(auth: &str, files: &[(&str, &str)]) -> Result<Loaded, Vec<String>> {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let text = format!("{ROUTES}auth:\n{auth}");
    parse(&text, "g.yaml", folder.path(), &env()).map_err(|problems| {
        let text = problems.to_string();
        let folder = format!("{}/", folder.path().display());
        let lines = text.replace(&folder, "");
        lines.lines().map(str::to_owned).collect()
    })
}

fn refused(auth: &str, files: &[(&str, &str)]) -> Vec<String> {
    let problems = read(auth, files).unwrap_err();
    for secret in ["1111", "2222", "L6Bc", "gw_secret"] {
        assert!(!problems.concat().contains(secret), "{problems:#?}");
    }
    problems
}

#[track_caller]
fn assert_refused(auth: &str, files: &[(&str, &str)], expected: &[&str]) {
    let problems = refused(auth, files);
    assert_eq!(problems.len(), expected.len(), "{problems:#?}");
    for (problem, expected) in problems.iter().zip(expected) {
        assert!(problem.starts_with(expected), "{problem}\n{expected}");
    }
}

fn kind(loaded: &Loaded) -> &SchemeKind {
    &loaded.config.auth.schemes[0].kind
}

fn keys(loaded: &Loaded) -> &ApiKeys {
    match kind(loaded) {
        SchemeKind::ApiKeys(keys) => keys,
        other => panic!("{other:?}"),
    }
}

fn basic(loaded: &Loaded) -> &Basic {
    match kind(loaded) {
        SchemeKind::Basic(basic) => basic,
        other => panic!("{other:?}"),
    }
}

#[test]
fn keys_of_the_configuration_and_of_a_file_are_one_list() {
    let auth = format!(
        "  api_keys:\n    file: keys.yaml\n    keys:\n      - {{ name: a, hash: '{ONE}', \
         scopes: [read], expires: 2099-12-31 }}\n"
    );
    let file = format!("# partners\n- name: b\n  hash: {TWO}\n  roles: [admin]\n");
    let loaded = read(&auth, &[("keys.yaml", &file)]).unwrap();
    let found = &keys(&loaded).keys;
    let names: Vec<&str> = found.iter().map(|key| &*key.name).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(found[0].hash, [0x11; 32]);
    assert_eq!(found[0].scopes, ["read"]);
    assert_eq!(found[1].roles, ["admin"]);
    assert!(found[0].expires.unwrap() > SystemTime::now() + Duration::from_secs(86_400));
    assert!(loaded.warnings.is_empty());
}

#[test]
fn a_key_that_is_switched_off_is_left_out_and_one_that_has_expired_is_told() {
    let auth = "  api_keys: { file: keys.yaml }\n";
    let file = format!(
        "- {{ name: a, hash: '{ONE}', enabled: false }}\n\
         - {{ name: b, hash: '{TWO}', expires: '2020-01-31' }}\n"
    );
    let loaded = read(auth, &[("keys.yaml", &file)]).unwrap();
    let names: Vec<&str> = keys(&loaded).keys.iter().map(|key| &*key.name).collect();
    assert_eq!(names, ["b"]);
    let [warning] = &loaded.warnings[..] else {
        panic!("{:?}", loaded.warnings);
    };
    let expected = "keys.yaml:2: the key of `b` has expired";
    assert!(warning.ends_with(expected), "{warning}");
}

#[test]
fn two_keys_of_one_owner_are_a_rotation_and_one_key_twice_is_a_mistake() {
    let both = format!("[{{ name: a, hash: '{ONE}' }}, {{ name: a, hash: '{TWO}' }}]");
    let loaded = read(&format!("  api_keys: {{ keys: {both} }}\n"), &[]).unwrap();
    assert_eq!(keys(&loaded).keys.len(), 2);
    let auth = format!(
        "  api_keys:\n    file: keys.yaml\n    keys: [{{ name: a, hash: '{ONE}', enabled: false }}]\n"
    );
    let file =
        format!("- name: c\n  hash: {TWO}\n- name: b\n  hash: {ONE}\n- name: d\n  hash: {TWO}\n");
    assert_refused(
        &auth,
        &[("keys.yaml", &file)],
        &[
            "keys.yaml:4: [1].hash: is the hash of another key (auth.api_keys.keys[0]) too",
            "keys.yaml:6: [2].hash: is the hash of another key (",
        ],
    );
}

#[test]
fn what_is_wrong_with_keys_is_told_with_its_line_and_without_the_key() {
    let auth = "  api_keys:
    redis: true
    file: keys.yaml
    keys:
      - { name: a, hash: gw_secret }
      - { name: '', hash: 'sha256:1111' }
      - gw_secret
";
    let file = format!(
        "- name: a\n  hash: SHA256:{}\n- name: b\n  hash: {TWO}\n  expires: soon\n- gw_secret\n\
         - nam: c\n  hash: {ONE}\n",
        "1".repeat(64)
    );
    assert_refused(
        auth,
        &[("keys.yaml", &file)],
        &[
            "g.yaml:4: auth.api_keys.redis: is true, but there is no Redis",
            "g.yaml:7: auth.api_keys.keys[0].hash: is no hash of a key, expected `sha256:`",
            "g.yaml:8: auth.api_keys.keys[1].name: `` is no name",
            "g.yaml:8: auth.api_keys.keys[1].hash: is no hash of a key",
            "g.yaml:9: auth.api_keys.keys[2]: is a single value, expected a mapping",
            "keys.yaml:2: [0].hash: is no hash of a key",
            "keys.yaml:5: [1].expires: `soon` is no date, expected a date such as",
            "keys.yaml:6: [2]: is a single value, expected a mapping",
            "keys.yaml:7: [3].nam: unknown key, did you mean `name`?",
            "keys.yaml:7: [3].name: is missing, expected a text",
        ],
    );
}

#[test]
fn a_file_that_is_no_list_of_keys_is_refused() {
    let auth = "  api_keys: { file: keys.yaml }\n";
    for (text, expected) in [
        ("", "keys.yaml: is a mapping, expected a list"),
        (
            "gw_secret",
            "keys.yaml:1: is a single value, expected a list",
        ),
        ("keys: []", "keys.yaml:1: is a mapping, expected a list"),
        ("- [", "keys.yaml:2: the YAML cannot be read"),
    ] {
        let problems = refused(auth, &[("keys.yaml", text)]);
        assert!(problems[0].starts_with(expected), "{problems:?}");
    }
    let missing = refused(auth, &[]);
    assert!(
        missing[0].starts_with("g.yaml:3: auth.api_keys.file: "),
        "{missing:?}"
    );
    assert!(missing[0].contains("No such file"), "{missing:?}");
    assert!(read(auth, &[("keys.yaml", "[]")]).is_ok());
    let none = refused("  api_keys: {}\n", &[]);
    assert!(
        none[0].contains("has no key, expected `keys`, `file` or `redis: true`"),
        "{none:?}"
    );
    let none = refused("  basic: {}\n", &[]);
    assert!(
        none[0].contains("has no user, expected `users` or `file`"),
        "{none:?}"
    );
}

#[test]
fn a_file_with_very_many_keys_is_read() {
    let keys_of = |count: usize| -> String {
        let one =
            |n: usize| format!("- {{ name: k{n}, hash: 'sha256:{n:064x}', scopes: [a.read] }}\n");
        (0..count).map(one).collect()
    };
    let file = keys_of(20_000);
    assert!(file.len() > 1024 * 1024);
    let auth = "  api_keys: { file: keys.yaml }\n";
    let loaded = read(auth, &[("keys.yaml", &file)]).unwrap();
    assert_eq!(keys(&loaded).keys.len(), 20_000);
}

#[test]
fn users_come_from_the_configuration_and_from_htpasswd_files() {
    let auth = format!(
        "  basic:\n    file: users\n    users: [{{ name: a, hash: '{BCRYPT}', roles: [admin] }}]\n"
    );
    let file = format!("# operators\n\nb:{BCRYPT}\r\n  c:{BCRYPT}:a comment\n");
    let loaded = read(&auth, &[("users", &file)]).unwrap();
    let users = &basic(&loaded).users;
    let names: Vec<&str> = users.iter().map(|user| &*user.name).collect();
    assert_eq!(names, ["a", "b", "c"]);
    assert!(users.iter().all(|user| user.hash.reveal() == BCRYPT));
    assert_eq!(users[0].roles, ["admin"]);
}

#[test]
fn what_is_wrong_with_users_is_told_by_line_and_without_the_hash() {
    let auth = format!(
        "  basic:\n    file: users\n    users:\n      - {{ name: 'a:b', hash: '{BCRYPT}' }}\n      \
         - {{ name: a, hash: gw_secret }}\n      - {{ name: c, hash: '{BCRYPT}' }}\n"
    );
    let file = format!(
        "c:{BCRYPT}\nd:$apr1$gw_secret$0123456789\ngw_secret\n:{BCRYPT}\ne:{{SHA}}gw_secret\n\
         f:{}\nf:{BCRYPT}\n",
        BCRYPT.replace("$05$", "$20$")
    );
    assert_refused(
        &auth,
        &[("users", &file)],
        &[
            "g.yaml:6: auth.basic.users[0].name: `a:b` has a colon",
            "g.yaml:7: auth.basic.users[1].hash: is of no kind that is known, expected bcrypt",
            "users:1: `c` is the name of another user (auth.basic.users[2]) too",
            "users:2: `d`: the hash is MD5, expected bcrypt (`$2b$…`), as `htpasswd -B`",
            "users:3: has no colon, expected `name:hash`",
            "users:4: `` is no name",
            "users:5: `e`: the hash is SHA-1, expected bcrypt",
            "users:6: `f`: the hash has a cost of 20, expected from 4 to 14",
        ],
    );
}

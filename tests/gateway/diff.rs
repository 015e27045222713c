//! `gateway diff`: what a change means before it is made.

use std::path::PathBuf;

use tempfile::TempDir;

use crate::support::command::{Finished, binary, finish};

fn write(folder: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn diff(old: &str, new: &str) -> Finished {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (write(&folder, "old", old), write(&folder, "new", new));
    finish(
        binary()
            .env("TOKEN", "very-secret")
            .arg("diff")
            .arg(old)
            .arg(new),
    )
}

const OLD: &str = "upstreams: { u: { backends: ['127.0.0.1:1'] } }
admin: { token: '${TOKEN}' }
routes:
  - { name: a, match: { path: /a }, upstream: u }
  - { match: { path: /b }, respond: { body: before } }";

#[test]
fn says_that_nothing_changes() {
    let run = diff(OLD, &format!("# with a word\n{OLD}"));
    assert_eq!((run.code, run.stdout.as_str()), (Some(0), "no change\n"));
}

#[test]
fn lists_what_changes_and_says_that_a_reload_is_enough() {
    let new =
        "upstreams: { u: { backends: ['127.0.0.1:1', '127.0.0.1:2'], timeouts: { connect: 2s } } }
admin: { token: another-secret }
limits: { uri_size: 4KiB }
routes:
  - { match: { path: /b }, respond: { body: after } }
  - { name: c, match: { path: /c }, upstream: u }";
    let run = diff(OLD, new);
    assert_eq!(run.code, Some(0), "{}", run.output());
    assert_eq!(
        run.stdout,
        "~ admin.token: changed
~ limits.uri_size: 8KiB → 4KiB
~ routes[/b].respond.body: before → after
- routes[a]
+ routes[c]
+ upstreams[u].backends[127.0.0.1:2]
~ upstreams[u].timeouts.connect: 1s → 2s
a reload is enough
"
    );
}

#[test]
fn says_which_keys_need_an_upgrade() {
    let run = diff(
        OLD,
        &format!("listeners: [{{ address: '127.0.0.1:1' }}]\n{OLD}"),
    );
    assert_eq!(run.code, Some(0));
    let last = run.stdout.lines().last().unwrap();
    let expected = "an upgrade is needed: listeners[0.0.0.0:8080], listeners[127.0.0.1:1]";
    assert_eq!(last, expected);
}

#[test]
fn an_invalid_side_is_told_and_fails() {
    let run = diff(OLD, "routes: [{ nam: x }]");
    assert_eq!(run.code, Some(1));
    assert!(
        run.stderr.contains("new:1: routes[0].nam: unknown key"),
        "{}",
        run.stderr
    );
    assert!(run.stdout.is_empty());
    let both = diff("a: 1", "b: 1");
    assert!(both.stderr.contains("old:1: a") && both.stderr.contains("new:1: b"));
}

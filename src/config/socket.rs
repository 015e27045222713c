//! Where a configuration puts the socket of upgrades, also when the rest of it is of no use.

use std::path::{Path, PathBuf};

use super::env::Env;
use super::source::Source;
use super::tree::Content;
use super::{expand, overrides, schema, text_of, yaml};

const KEY: &str = "upgrade_socket:";

/// `server.upgrade_socket` of a file that need not be a good configuration, nor even be there.
pub fn upgrade_socket(path: &Path, env: &dyn Env) -> Option<PathBuf> {
    let text = text_of(Source::open(path).1).unwrap_or_default();
    let (mut tree, _) = yaml::parse(&text)
        .or_else(|_| yaml::parse(&salvaged(&text)))
        .or_else(|_| yaml::parse(""))
        .ok()?;
    overrides::apply(&mut tree, schema(), env);
    // Nothing else of the file is wanted; what it refers to may be gone.
    if let Content::Map(entries) = &mut tree.content {
        entries.retain(|(key, _)| key == "server");
    }
    let base = path.parent().unwrap_or(Path::new("."));
    expand::expand(&mut tree, base, env, &mut Vec::new());
    match &tree.get("server")?.get("upgrade_socket")?.content {
        Content::Scalar(scalar) if !scalar.is_null() => Some(base.join(&*scalar.text)),
        _ => None,
    }
}

/// The line of the key alone, from a text that is no YAML.
fn salvaged(text: &str) -> String {
    let is_comment = |line: &&str| line.trim_start().starts_with('#');
    let mut lines = text.lines().filter(|line| !is_comment(line));
    let found = lines.find_map(|line| line.split_once(KEY));
    let (before, value) = found.unwrap_or_default();
    // In braces the value ends where they do, or the next key begins.
    let value = match before.contains('{') {
        true => value.split([',', '}']).next().unwrap_or_default(),
        false => value,
    };
    format!("server:\n  {KEY} {value}\n")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step is a failed test")]
mod tests {
    use super::super::env::FixedEnv;
    use super::*;

    #[test]
    fn the_socket_of_a_bad_file_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("g.yaml");
        let found = |text: &str, env: &FixedEnv| {
            std::fs::write(&path, text).unwrap();
            upgrade_socket(&path, env)
        };
        let none = FixedEnv::default();
        for good in [
            "server: { upgrade_socket: a.sock }",
            "nonsense: 1\nlog: file:none\nserver:\n  upgrade_socket: a.sock\nroutes: 5",
            "# upgrade_socket: b\nserver:\n  upgrade_socket: 'a.sock' # here\nroutes: [",
            "server: { threads: 2, upgrade_socket: a.sock, x: 1 }\n\tlog: }",
        ] {
            let expected = Some(folder.path().join("a.sock"));
            assert_eq!(found(good, &none), expected, "{good}");
        }
        for without in [
            "",
            "routes: [",
            "server: 5",
            "server: { upgrade_socket: ~ }",
        ] {
            assert_eq!(found(without, &none), None, "{without}");
        }
        let set = FixedEnv::default().with_var("GATEWAY_SERVER_UPGRADE_SOCKET", "/b.sock");
        assert_eq!(found("routes: [", &set), Some("/b.sock".into()));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(upgrade_socket(&path, &none), None);
        assert_eq!(upgrade_socket(&path, &set), Some("/b.sock".into()));
    }
}

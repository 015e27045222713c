//! References in values: `${NAME}`, `${NAME:-default}` and `file:PATH`.
//!
//! A value that came from elsewhere keeps what was written, and messages show that alone.

use std::io::Read;
use std::path::Path as FilePath;
use std::sync::Arc;

use super::env::Env;
use super::problem::{Problem, quote};
use super::source::Source;
use super::tree::{Content, Node, Path, Scalar};

/// Largest file that a value may refer to.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Most bytes that all references of a configuration may bring in.
const MAX_TOTAL_BYTES: usize = 64 * 1024 * 1024;

/// Resolves every reference of a tree; relative files are looked for in `base`. The files that
/// were read are added to `sources`.
pub(super) fn expand(
    root: &mut Node,
    base: &FilePath,
    env: &dyn Env,
    sources: &mut Vec<Source>,
) -> Vec<Problem> {
    let mut expander = Expander {
        base,
        env,
        sources,
        brought_in: 0,
        problems: Vec::new(),
    };
    expander.node(root, &Path::Root);
    expander.problems
}

struct Expander<'a> {
    base: &'a FilePath,
    env: &'a dyn Env,
    sources: &'a mut Vec<Source>,
    brought_in: usize,
    problems: Vec<Problem>,
}

impl Expander<'_> {
    fn node(&mut self, node: &mut Node, at: &Path<'_>) {
        match &mut node.content {
            Content::List(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    self.node(item, &at.item(index));
                }
            }
            Content::Map(entries) => {
                for (key, value) in entries {
                    self.node(value, &at.key(key));
                }
            }
            Content::Scalar(scalar) => {
                if let Err(what) = self.scalar(scalar) {
                    let origin = node.origin.clone();
                    self.problems.push(Problem {
                        origin,
                        key: at.to_string(),
                        what,
                    });
                    node.content = Content::Refused;
                }
            }
            Content::Refused => {}
        }
    }

    fn scalar(&mut self, scalar: &mut Scalar) -> Result<(), String> {
        if scalar.shown.is_some() {
            // An override is taken as it is.
            return Ok(());
        }
        let from_file = scalar.text.starts_with("file:");
        if !from_file && !scalar.text.contains("${") {
            return Ok(());
        }
        let (mut text, from_env) = substitute(&scalar.text, self.env)?;
        if from_file {
            text = self.read(&text["file:".len()..], &scalar.text)?;
        }
        self.brought_in += text.len();
        if self.brought_in > MAX_TOTAL_BYTES {
            return Err(format!(
                "references bring in more than {MAX_TOTAL_BYTES} bytes in all"
            ));
        }
        if from_file || from_env {
            scalar.shown = Some(Arc::clone(&scalar.text));
        }
        scalar.text = text.into();
        Ok(())
    }

    fn read(&mut self, path: &str, written: &str) -> Result<String, String> {
        let written = quote(written);
        let path = self.base.join(path);
        let cannot = |error: std::io::Error| format!("{written} cannot be read: {error}");
        let (source, opened) = Source::open(&path);
        self.sources.push(source);
        let file = opened.map_err(cannot)?;
        let mut text = String::new();
        // One byte more than is allowed tells a file that grows apart from one that fits.
        file.take(MAX_FILE_BYTES + 1)
            .read_to_string(&mut text)
            .map_err(cannot)?;
        if text.len() as u64 > MAX_FILE_BYTES {
            return Err(format!(
                "{written} is too large, expected at most {MAX_FILE_BYTES} bytes"
            ));
        }
        if text.ends_with('\n') {
            text.pop();
            if text.ends_with('\r') {
                text.pop();
            }
        }
        Ok(text)
    }
}

/// The text with its variables put in, and whether there was any.
///
/// Only names in upper case are variables: `${name}` is a group in the replacement of a rewrite.
fn substitute(text: &str, env: &dyn Env) -> Result<(String, bool), String> {
    let mut out = String::with_capacity(text.len());
    let mut found = false;
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        if rest[..start].ends_with('$') {
            out.push_str(&rest[..start - 1]);
            out.push_str("${");
            rest = &rest[start + 2..];
            continue;
        }
        out.push_str(&rest[..start]);
        let inner = &rest[start + 2..];
        if !inner.starts_with(|c: char| c.is_ascii_uppercase() || c == '_') {
            out.push_str("${");
            rest = inner;
            continue;
        }
        let Some(end) = inner.find('}') else {
            return Err(
                "`${` is not closed, expected `${NAME}` or `$${` for the text itself".into(),
            );
        };
        out.push_str(&variable(&inner[..end], env)?);
        found = true;
        rest = &inner[end + 1..];
    }
    out.push_str(rest);
    Ok((out, found))
}

fn variable(reference: &str, env: &dyn Env) -> Result<String, String> {
    let (name, default) = match reference.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (reference, None),
    };
    if !name
        .bytes()
        .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
    {
        let name = quote(name);
        return Err(format!(
            "{name} is no variable name, expected upper-case letters, digits and `_`"
        ));
    }
    match (env.var(name), default) {
        (Some(value), None) => Ok(value),
        (Some(value), Some(_)) if !value.is_empty() => Ok(value),
        (_, Some(default)) => Ok(default.to_owned()),
        (None, None) => Err(format!(
            "the environment variable `{name}` is not set, expected a value or `${{{name}:-default}}`"
        )),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // A test that cannot go on has failed.
    use super::super::env::FixedEnv;
    use super::super::yaml;
    use super::*;

    fn substituted(text: &str) -> Result<String, String> {
        let env = FixedEnv::default()
            .with_var("HOST", "db")
            .with_var("EMPTY", "");
        substitute(text, &env).map(|(text, _)| text)
    }

    #[test]
    fn variables_are_put_in_anywhere() {
        assert_eq!(
            substituted("http://${HOST}:80/${HOST}").unwrap(),
            "http://db:80/db"
        );
        assert_eq!(
            substituted("${NONE:-x}-${EMPTY:-y}-${EMPTY}").unwrap(),
            "x-y-"
        );
        assert_eq!(substituted("${NONE:-}").unwrap(), "");
    }

    #[test]
    fn escapes_and_groups_stay() {
        assert_eq!(substituted("$${HOST}").unwrap(), "${HOST}");
        assert_eq!(substituted("${name}$1${1}").unwrap(), "${name}$1${1}");
    }

    #[test]
    fn a_missing_variable_a_bad_name_and_an_open_brace_are_problems() {
        assert!(
            substituted("${NONE}")
                .unwrap_err()
                .contains("`NONE` is not set")
        );
        assert!(
            substituted("${Name}")
                .unwrap_err()
                .contains("no variable name")
        );
        assert!(substituted("${NAME").unwrap_err().contains("not closed"));
    }

    #[test]
    fn files_are_read_beside_the_configuration() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("token"), "s3cret\n").unwrap();
        let (mut root, _) =
            yaml::parse("a: file:token\nb: ['file:${NAME}']\nc: file:none\n").unwrap();
        let env = FixedEnv::default().with_var("NAME", "token");
        let mut sources = Vec::new();
        let problems = expand(&mut root, folder.path(), &env, &mut sources);
        assert_eq!(problems.len(), 1);
        assert!(problems[0].what.starts_with("`file:none` cannot be read: "));
        let read = |name: &str| {
            let path = folder.path().join(name);
            sources.iter().find(|source| source.path == path).unwrap()
        };
        assert!(read("token").stamp.is_some() && read("none").stamp.is_none());
        let Content::Scalar(a) = &root.get("a").unwrap().content else {
            panic!()
        };
        assert_eq!(&*a.text, "s3cret");
        assert_eq!(a.shown.as_deref(), Some("file:token"));
        let Content::List(b) = &root.get("b").unwrap().content else {
            panic!()
        };
        assert_eq!(b[0].shown(), Some("file:${NAME}"));
    }
}

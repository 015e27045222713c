//! From what was written to what it means: `File` → `Config`. Imports nothing of the crate.
//!
//! text → tree with lines (`yaml`) → references (`expand`) and overrides (`overrides`) → typed
//! values (`shape`, by the schema of `file`) → `check`. Each step reports what it refuses and goes
//! on, so that one run finds every problem of a file.

mod cause;
mod check;
pub mod conflict;
pub mod diff;
mod env;
mod expand;
mod faults;
mod file;
pub mod model;
mod overrides;
pub mod pattern;
mod problem;
mod reference;
mod scalar;
mod schema;
mod shape;
mod socket;
mod source;
mod tree;
mod units;
mod written;
mod yaml;

use std::io::Read;
use std::path::Path;

pub use check::{backends, expiry, lists};
pub use env::{Env, FixedEnv, ProcessEnv};
pub use faults::Fault;
pub use model::{Config, Secret};
pub use problem::{Invalid, Origin, Problem, Problems};
pub use reference::reference;
pub use schema::schema;
pub use socket::upgrade_socket;
pub use source::{Origins, Source, Stamp};
pub use written::{Branch, Written};

/// Largest configuration file.
const MAX_FILE_BYTES: usize = 16 * 1024 * 1024;

/// A configuration, and what is odd about it but no error.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What the file means.
    pub config: Config,
    /// What was written, to be compared with what is written later.
    pub written: Written,
    /// One sentence each.
    pub warnings: Vec<String>,
    /// The files that it was read from.
    pub origins: Origins,
    source: faults::Located,
}

/// What reading a file came to, and which files that took.
#[derive(Debug)]
pub struct Reading {
    /// As in [`Origins`], also when something is wrong.
    pub sources: Vec<Source>,
    /// The configuration, or what is wrong with it.
    pub result: Result<Loaded, Problems>,
}

/// Reads and checks a file.
pub fn load(path: &Path, env: &dyn Env) -> Result<Loaded, Problems> {
    read(path, env).result
}

/// Reads and checks a file, and remembers which files that took.
pub fn read(path: &Path, env: &dyn Env) -> Reading {
    let name = path.display().to_string();
    let (source, opened) = Source::open(path);
    let mut sources = vec![source];
    let result = match text_of(opened) {
        Ok(text) => {
            let base = path.parent().unwrap_or(Path::new("."));
            understand(&text, &name, base, env, &mut sources)
        }
        Err(what) => Err(Problems::new(&name, vec![Problem::of_the_whole(what)])),
    };
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    sources.dedup();
    let result = result.map(|loaded| Loaded {
        origins: Origins {
            path: Some(path.to_owned()),
            sources: sources.clone(),
        },
        ..loaded
    });
    Reading { sources, result }
}

/// Checks a text. Problems call it `origin`; relative paths in it begin at `base`.
pub fn parse(text: &str, origin: &str, base: &Path, env: &dyn Env) -> Result<Loaded, Problems> {
    understand(text, origin, base, env, &mut Vec::new())
}

fn understand(
    text: &str,
    origin: &str,
    base: &Path,
    env: &dyn Env,
    sources: &mut Vec<Source>,
) -> Result<Loaded, Problems> {
    let (mut tree, mut problems) =
        yaml::parse(text).map_err(|problem| Problems::new(origin, vec![problem]))?;
    let mut warnings = overrides::apply(&mut tree, schema(), env);
    problems.extend(expand::expand(&mut tree, base, env, sources));
    let fitted = shape::fit(&tree, schema());
    problems.extend(fitted.problems);
    let source = check::Source {
        text,
        tree: &tree,
        damaged: &fitted.damaged,
        base,
        env,
    };
    let understood = match serde_json::from_value(fitted.value) {
        Ok(file) => {
            let checked = check::check(&file, &source);
            problems.extend(checked.problems);
            warnings.extend(checked.warnings);
            sources.extend(checked.files);
            checked.config.map(|config| (config, file))
        }
        // What fits the schema can be read; without the cause, which may quote a secret.
        Err(_) => None,
    };
    match understood {
        Some((config, file)) if problems.is_empty() => Ok(Loaded {
            written: Written::new(file, &config, &tree, schema()),
            config,
            warnings,
            origins: Origins::default(),
            source: faults::Located::new(origin, tree),
        }),
        _ => {
            if problems.is_empty() {
                let what = "does not fit the schema, expected what `--print-schema` prints";
                problems.push(Problem::of_the_whole(what.into()));
            }
            Err(Problems::new(origin, problems))
        }
    }
}

fn text_of(opened: std::io::Result<std::fs::File>) -> Result<String, String> {
    let cannot = |error: std::io::Error| format!("cannot be read: {error}");
    let mut text = String::new();
    // One byte more than is allowed tells a file that is too large from one that fits.
    opened
        .and_then(|file| {
            file.take(MAX_FILE_BYTES as u64 + 1)
                .read_to_string(&mut text)
        })
        .map_err(cannot)?;
    if text.len() > MAX_FILE_BYTES {
        return Err(format!(
            "is too large, expected at most {MAX_FILE_BYTES} bytes"
        ));
    }
    Ok(text)
}

#[cfg(test)]
mod tests;

//! From what was written to what it means: `File` → `Config`. Imports nothing of the crate.
//!
//! text → tree with lines (`yaml`) → references (`expand`) and overrides (`overrides`) → typed
//! values (`shape`, by the schema of `file`) → `check`. Each step reports what it refuses and goes
//! on, so that one run finds every problem of a file.

mod check;
pub mod conflict;
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
mod tree;
mod units;
mod yaml;

use std::io::Read;
use std::path::Path;

pub use env::{Env, FixedEnv, ProcessEnv};
pub use faults::Fault;
pub use model::Config;
pub use problem::{Invalid, Origin, Problem, Problems};
pub use reference::reference;
pub use schema::schema;

/// Largest configuration file.
const MAX_FILE_BYTES: usize = 16 * 1024 * 1024;

/// A configuration, and what is odd about it but no error.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What the file means.
    pub config: Config,
    /// One sentence each.
    pub warnings: Vec<String>,
    source: faults::Located,
}

/// Reads and checks a file.
pub fn load(path: &Path, env: &dyn Env) -> Result<Loaded, Problems> {
    let name = path.display().to_string();
    let text = read(path).map_err(|what| {
        let problem = Problem {
            origin: Origin::Whole,
            key: String::new(),
            what,
        };
        Problems::new(&name, vec![problem])
    })?;
    parse(&text, &name, path.parent().unwrap_or(Path::new(".")), env)
}

/// Checks a text. Problems call it `origin`; relative paths in it begin at `base`.
pub fn parse(text: &str, origin: &str, base: &Path, env: &dyn Env) -> Result<Loaded, Problems> {
    let (mut tree, mut problems) =
        yaml::parse(text).map_err(|problem| Problems::new(origin, vec![problem]))?;
    let mut warnings = overrides::apply(&mut tree, schema(), env);
    problems.extend(expand::expand(&mut tree, base, env));
    let fitted = shape::fit(&tree, schema());
    problems.extend(fitted.problems);
    let source = check::Source {
        text,
        tree: &tree,
        damaged: &fitted.damaged,
        base,
        env,
    };
    let config = match serde_json::from_value(fitted.value) {
        Ok(file) => {
            let checked = check::check(&file, &source);
            problems.extend(checked.problems);
            warnings.extend(checked.warnings);
            checked.config
        }
        // What fits the schema can be read; without the cause, which may quote a secret.
        Err(_) => None,
    };
    match config {
        Some(config) if problems.is_empty() => Ok(Loaded {
            config,
            warnings,
            source: faults::Located::new(origin, tree),
        }),
        _ => {
            if problems.is_empty() {
                let what = "does not fit the schema, expected what `--print-schema` prints".into();
                problems.push(Problem {
                    origin: Origin::Whole,
                    key: String::new(),
                    what,
                });
            }
            Err(Problems::new(origin, problems))
        }
    }
}

fn read(path: &Path) -> Result<String, String> {
    let cannot = |error: std::io::Error| format!("cannot be read: {error}");
    let file = std::fs::File::open(path).map_err(cannot)?;
    let mut text = String::new();
    // One byte more than is allowed tells a file that is too large from one that fits.
    file.take(MAX_FILE_BYTES as u64 + 1)
        .read_to_string(&mut text)
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

//! Whole files: what they mean, and every problem that they can have.
#![allow(clippy::unwrap_used)] // A test that cannot go on has failed.

mod documents;
mod keys;
mod meaning;
mod refusals;
mod together;

use std::path::Path;

use super::*;

fn env() -> FixedEnv {
    FixedEnv::default()
}

fn parsed(text: &str, env: &FixedEnv) -> Result<Loaded, Problems> {
    parse(text, "g.yaml", Path::new("."), env)
}

fn config(text: &str) -> Config {
    match parsed(text, &env()) {
        Ok(loaded) => loaded.config,
        Err(problems) => panic!("{problems}"),
    }
}

/// The problems as they are printed.
fn problems(text: &str, env: &FixedEnv) -> Vec<String> {
    match parsed(text, env) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.to_string().lines().map(str::to_owned).collect(),
    }
}

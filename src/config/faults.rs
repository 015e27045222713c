//! What turns out to be wrong with a sound configuration when the files that it names are read.

use std::fmt;
use std::path::PathBuf;

use super::Loaded;
use super::problem::{Origin, Problem, Problems, quote};
use super::tree::{Content, Node};

/// What is wrong with a file that a key names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The key, as a path.
    pub key: String,
    /// The file; `None` when the value itself is wrong, which is not shown then.
    pub path: Option<PathBuf>,
    /// What is wrong with it and what was expected; never shows what is in it.
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.key)?;
        if let Some(path) = &self.path {
            write!(f, "{} ", path.display())?;
        }
        f.write_str(&self.what)
    }
}

/// Where the keys of a configuration were written.
#[derive(Clone, Debug)]
pub(super) struct Located {
    name: String,
    tree: Node,
}

impl Located {
    pub(super) fn new(name: &str, tree: Node) -> Self {
        Self {
            name: name.to_owned(),
            tree,
        }
    }
}

impl Loaded {
    /// The faults as problems of this configuration, each with its line.
    pub fn problems(&self, faults: Vec<Fault>) -> Problems {
        let problem = |fault: Fault| {
            let (origin, shown) = locate(&self.source.tree, &fault.key);
            // The path may have come from the environment; then what was written is shown.
            let what = match fault.path {
                Some(path) => {
                    let path = shown.unwrap_or_else(|| path.display().to_string());
                    format!("{} {}", quote(&path), fault.what)
                }
                None => fault.what,
            };
            Problem {
                origin,
                key: fault.key,
                what,
            }
        };
        Problems::new(&self.source.name, faults.into_iter().map(problem).collect())
    }
}

/// Where a key was written, or as much of it as was, and what may be shown of its value.
fn locate(root: &Node, key: &str) -> (Origin, Option<String>) {
    let mut node = root;
    for part in key.split(['.', '[']) {
        let next = match (part.strip_suffix(']'), &node.content) {
            (Some(index), Content::List(items)) => {
                index.parse::<usize>().ok().and_then(|i| items.get(i))
            }
            _ => node.get(part),
        };
        let Some(next) = next else {
            return (node.origin.clone(), None);
        };
        node = next;
    }
    let shown = match &node.content {
        Content::Scalar(scalar) => scalar.shown.as_ref().or(Some(&scalar.text)),
        _ => None,
    };
    (node.origin.clone(), shown.map(|text| text.to_string()))
}

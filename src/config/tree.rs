//! A file as a tree of nodes that remember where they were written, and the paths into it.

use std::fmt;
use std::sync::Arc;

use super::problem::{Invalid, Origin, quote};

/// One value of the file.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// Where it was written: the line of its key, or of its item in a list.
    pub origin: Origin,
    /// What it is.
    pub content: Content,
}

/// What a node is.
#[derive(Clone, Debug)]
pub(super) enum Content {
    /// A single value.
    Scalar(Scalar),
    /// A list.
    List(Vec<Node>),
    /// Keys and values, in the order of the file; keys are unique.
    Map(Vec<(String, Node)>),
    /// Something that was refused already: there, but of no use.
    Refused,
}

/// A single value.
#[derive(Clone, Debug)]
pub(super) struct Scalar {
    /// Its text, references resolved. Shared, so that an alias costs no copy.
    pub text: Arc<str>,
    /// Whether it stands without quotes, so that `null` means nothing.
    pub plain: bool,
    /// What a message shows in its place, when the text came from elsewhere and may be a secret.
    pub shown: Option<Arc<str>>,
}

impl Scalar {
    /// Whether it stands for no value.
    pub fn is_null(&self) -> bool {
        self.plain && matches!(&*self.text, "" | "~" | "null" | "Null" | "NULL")
    }
}

impl Node {
    /// The value under a key.
    pub fn get(&self, key: &str) -> Option<&Self> {
        match &self.content {
            Content::Map(entries) => entries.iter().find(|(k, _)| k == key).map(|(_, node)| node),
            _ => None,
        }
    }

    /// The node at a path.
    pub fn at(&self, path: &Path<'_>) -> Option<&Self> {
        match path {
            Path::Root => Some(self),
            Path::Key(parent, key) => self.at(parent)?.get(key),
            Path::Item(parent, index) => match &self.at(parent)?.content {
                Content::List(items) => items.get(*index),
                _ => None,
            },
        }
    }

    /// Where a path was written, or as much of it as was.
    pub fn origin_of(&self, path: &Path<'_>) -> Origin {
        match (self.at(path), path) {
            (Some(node), _) => node.origin.clone(),
            (None, Path::Root) => Origin::Whole,
            (None, Path::Key(parent, _) | Path::Item(parent, _)) => self.origin_of(parent),
        }
    }

    /// What a message shows instead of the text, when that came from elsewhere.
    pub fn shown(&self) -> Option<&str> {
        match &self.content {
            Content::Scalar(scalar) => scalar.shown.as_deref(),
            _ => None,
        }
    }

    /// What a message says about a value that is refused: never more than was written.
    pub fn refusal(&self, invalid: &Invalid) -> String {
        match self.shown() {
            Some(shown) => format!(
                "{} is not accepted, expected {}",
                quote(shown),
                invalid.expected
            ),
            None => invalid.to_string(),
        }
    }

    /// Whether anything here came from elsewhere and may be a secret.
    pub fn hides_something(&self) -> bool {
        match &self.content {
            Content::Scalar(scalar) => scalar.shown.is_some(),
            Content::List(items) => items.iter().any(Self::hides_something),
            Content::Map(entries) => entries.iter().any(|(_, node)| node.hides_something()),
            Content::Refused => true,
        }
    }
}

/// A path to a key, made on the stack on the way down; it is written out only for a message.
#[derive(Clone, Copy, Debug)]
pub(super) enum Path<'a> {
    /// The file as a whole.
    Root,
    /// A key of a mapping.
    Key(&'a Path<'a>, &'a str),
    /// An item of a list.
    Item(&'a Path<'a>, usize),
}

impl<'a> Path<'a> {
    /// The path of a key below this one.
    pub fn key(&'a self, key: &'a str) -> Self {
        Self::Key(self, key)
    }

    /// The paths above this one, the whole file last.
    pub fn ancestors(&self) -> impl Iterator<Item = &'a Path<'a>> {
        let parent = |path: &Path<'a>| match path {
            Path::Root => None,
            Path::Key(parent, _) | Path::Item(parent, _) => Some(*parent),
        };
        std::iter::successors(parent(self), move |path| parent(path))
    }

    /// The path of an item below this one.
    pub fn item(&'a self, index: usize) -> Self {
        Self::Item(self, index)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Key(Path::Root, key) => f.write_str(key),
            Self::Key(parent, key) => write!(f, "{parent}.{key}"),
            Self::Item(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

//! The paths of one host: literal paths by hash, expressions in one set, patterns in a trie.
//!
//! # Cost
//!
//! A look-up hashes the path once, runs the set of expressions once if the host has any, and walks
//! the trie. Each trie node has one parent and is reached by exactly one split of the path, so a
//! walk visits a node at most once: going back after a dead end never repeats work, and the total
//! is bounded by the nodes whose patterns the path fits, whatever the client sends. Recursion is as
//! deep as the longest pattern, which the operator wrote.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

use foldhash::fast::RandomState;
use regex::{Regex, RegexSet, RegexSetBuilder};

use super::params::{Names, Ranges};
use crate::config::pattern::{PathPattern, Segment, Tail};

/// A map keyed by text of the configuration. Clients choose what is asked, never what is in it, so
/// the hash need not resist flooding.
pub(super) type Map<V> = HashMap<Box<str>, V, RandomState>;

/// A route's claim on the paths of a pattern.
#[derive(Clone, Copy)]
pub(super) struct Claim<'a> {
    /// Index of the route.
    pub(super) route: u32,
    /// Whether the route names the method HEAD.
    pub(super) names_head: bool,
    /// The paths.
    pub(super) pattern: &'a PathPattern,
}

/// The routes of one host and one path pattern, most specific first.
#[derive(Debug, Default)]
pub(super) struct Leaf {
    /// The routes.
    pub(super) entries: Vec<Entry>,
    /// Whether one of them names the method HEAD.
    pub(super) names_head: bool,
}

/// One route at a leaf.
#[derive(Debug)]
pub(super) struct Entry {
    /// Index of the route.
    pub(super) route: u32,
    /// What its pattern calls the parameters; `None` when it has none.
    pub(super) names: Option<Names>,
}

/// All paths of one host.
#[derive(Debug)]
pub(super) struct PathTable {
    exact: Map<Leaf>,
    set: RegexSet,
    /// What the expressions of `set` lead to, by their index.
    expressions: Vec<Expression>,
    root: Node,
}

/// What a path expression leads to.
#[derive(Debug)]
struct Expression {
    leaf: Leaf,
    /// The expression itself, if it names groups: they are parameters.
    captures: Option<Regex>,
}

/// What may follow after some segments of a pattern.
#[derive(Debug, Default)]
struct Node {
    literals: Map<Node>,
    param: Option<Box<Node>>,
    end: Leaf,
    tail: Leaf,
}

impl PathTable {
    /// Builds the table of claims that are ordered by precedence of their routes.
    pub(super) fn compile(claims: &[Claim<'_>]) -> Result<Self, regex::Error> {
        let mut exact: Map<Leaf> = Map::default();
        let mut expressions: BTreeMap<(Reverse<usize>, &str), Leaf> = BTreeMap::new();
        let mut root = Node::default();
        for claim in claims {
            match claim.pattern {
                PathPattern::Regex(expression) => {
                    let text = expression.as_str();
                    let key = (Reverse(text.len()), text);
                    let leaf = expressions.entry(key).or_default();
                    leaf.add(claim, group_names(expression));
                }
                PathPattern::Segments { segments, tail } => match literal_path(segments, tail) {
                    Some(path) => exact.entry(path.into()).or_default().add(claim, None),
                    None => root.insert(claim, segments, tail),
                },
            }
        }
        let set = expressions.keys().map(|(_, text)| anchored(text));
        // Each expression passed the limit by itself; a set is as large as its members together.
        let set = RegexSetBuilder::new(set).size_limit(usize::MAX).build()?;
        let expression = |((_, text), leaf)| Expression::compile(text, leaf);
        let expressions = expressions
            .into_iter()
            .map(expression)
            .collect::<Result<_, _>>()?;
        Ok(Self {
            exact,
            set,
            expressions,
            root,
        })
    }

    /// Shows the leaves that the path fits to `visit`, most specific first, until it returns
    /// something. Then `ranges` holds the parameters of that leaf; otherwise it is as it was.
    pub(super) fn search<'t, R>(
        &'t self,
        path: &str,
        ranges: &mut Ranges,
        visit: &mut impl FnMut(&'t Leaf) -> Option<R>,
    ) -> Option<R> {
        if let Some(found) = self.exact.get(path).and_then(&mut *visit) {
            return Some(found);
        }
        // `matches` allocates, `is_match` does not.
        if !self.expressions.is_empty() && self.set.is_match(path) {
            for index in self.set.matches(path).iter() {
                let expression = &self.expressions[index];
                if let Some(found) = visit(&expression.leaf) {
                    expression.capture(path, ranges);
                    return Some(found);
                }
            }
        }
        // `OPTIONS *` has no segments; only `/*` at the root can take it.
        let start = path.starts_with('/').then_some(1);
        self.root.walk(path, start, ranges, visit)
    }
}

impl Expression {
    fn compile(text: &str, leaf: Leaf) -> Result<Self, regex::Error> {
        let named = leaf.entries.iter().any(|entry| entry.names.is_some());
        let captures = named.then(|| Regex::new(&anchored(text))).transpose()?;
        Ok(Self { leaf, captures })
    }

    /// Keeps where the named groups are.
    fn capture(&self, path: &str, ranges: &mut Ranges) {
        let Some(expression) = &self.captures else {
            return;
        };
        let Some(captures) = expression.captures(path) else {
            return;
        };
        for name in expression.capture_names().flatten() {
            match captures.name(name) {
                Some(group) => ranges.push(group.start(), group.end()),
                // Beyond every path, so that a group that took no part has no value.
                None => ranges.push(usize::MAX, usize::MAX),
            }
        }
    }
}

impl Node {
    fn insert(&mut self, claim: &Claim<'_>, segments: &[Segment], tail: &Tail) {
        let mut names: Vec<Box<str>> = Vec::new();
        let mut node = self;
        for segment in segments {
            node = match segment {
                Segment::Literal(text) => node.literals.entry(text.as_str().into()).or_default(),
                Segment::Param(name) => {
                    names.push(name.as_str().into());
                    node.param.get_or_insert_default()
                }
            };
        }
        if let Tail::CatchAll(name) = tail {
            names.push(name.as_str().into());
        }
        let leaf = match tail {
            Tail::End => &mut node.end,
            Tail::Prefix | Tail::CatchAll(_) => &mut node.tail,
        };
        leaf.add(claim, (!names.is_empty()).then(|| names.into()));
    }

    /// Goes on from the segment that begins at `start`; `None` when the path has ended.
    fn walk<'t, R>(
        &'t self,
        path: &str,
        start: Option<usize>,
        ranges: &mut Ranges,
        visit: &mut impl FnMut(&'t Leaf) -> Option<R>,
    ) -> Option<R> {
        let Some(start) = start else {
            return visit(&self.end).or_else(|| self.take_tail(path, path.len(), ranges, visit));
        };
        let rest = path.get(start..).unwrap_or_default();
        let length = memchr::memchr(b'/', rest.as_bytes()).unwrap_or(rest.len());
        let segment = rest.get(..length).unwrap_or_default();
        let next = (length < rest.len()).then_some(start + length + 1);
        if let Some(child) = self.literals.get(segment)
            && let Some(found) = child.walk(path, next, ranges, visit)
        {
            return Some(found);
        }
        if let Some(child) = self.param.as_deref()
            && !segment.is_empty()
        {
            ranges.push(start, start + length);
            if let Some(found) = child.walk(path, next, ranges, visit) {
                return Some(found);
            }
            ranges.pop();
        }
        self.take_tail(path, start, ranges, visit)
    }

    fn take_tail<'t, R>(
        &'t self,
        path: &str,
        start: usize,
        ranges: &mut Ranges,
        visit: &mut impl FnMut(&'t Leaf) -> Option<R>,
    ) -> Option<R> {
        ranges.push(start, path.len());
        let found = visit(&self.tail);
        if found.is_none() {
            ranges.pop();
        }
        found
    }
}

impl Leaf {
    fn add(&mut self, claim: &Claim<'_>, names: Option<Names>) {
        // A route may write one shape twice; claims are ordered, so its other one came just before.
        if self
            .entries
            .last()
            .is_none_or(|last| last.route != claim.route)
        {
            self.entries.push(Entry {
                route: claim.route,
                names,
            });
            self.names_head |= claim.names_head;
        }
    }
}

/// The expression, made to match the whole path.
fn anchored(text: &str) -> String {
    format!(r"\A(?:{text})\z")
}

/// What an expression calls its groups; `None` when it names none.
fn group_names(expression: &Regex) -> Option<Names> {
    let names: Vec<Box<str>> = expression
        .capture_names()
        .flatten()
        .map(Box::from)
        .collect();
    (!names.is_empty()).then(|| names.into())
}

/// The only path that the pattern matches, if it is but one.
fn literal_path(segments: &[Segment], tail: &Tail) -> Option<String> {
    if *tail != Tail::End {
        return None;
    }
    let mut path = String::new();
    for segment in segments {
        let Segment::Literal(text) = segment else {
            return None;
        };
        path.push('/');
        path.push_str(text);
    }
    if path.is_empty() {
        path.push('/');
    }
    Some(path)
}

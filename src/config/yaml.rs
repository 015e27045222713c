//! YAML text → [`Node`] tree with the line of every value. Bounded in size, depth and aliases.

use std::collections::HashMap;
use std::sync::Arc;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, Tag};

use super::problem::{Origin, Problem, quote};
use super::tree::{Content, Node, Scalar};

/// Deepest nesting; far beyond what a configuration has, and small enough to recurse over.
const MAX_DEPTH: usize = 64;

/// Most values after aliases are put in: enough for 50 000 routes, a bound on an alias bomb.
const MAX_NODES: usize = 1_000_000;

/// The tree of a file, and what is wrong with its mappings.
///
/// An error is a text that is no YAML document or is too large; then nothing else is known.
pub(super) fn parse(text: &str) -> Result<(Node, Vec<Problem>), Problem> {
    let mut builder = Builder::default();
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let (event, span) = event.map_err(|error| syntax(&error))?;
        if matches!(event, Event::StreamEnd) {
            break;
        }
        builder.event(event, span)?;
    }
    let empty = || Node {
        origin: Origin::Whole,
        content: Content::Map(Vec::new()),
    };
    let mut root = builder.root.unwrap_or_else(empty);
    if matches!(&root.content, Content::Scalar(scalar) if scalar.is_null()) {
        root.content = Content::Map(Vec::new());
    }
    Ok((root, builder.problems))
}

fn syntax(error: &ScanError) -> Problem {
    let line = error.marker().line();
    refusal(line, format!("the YAML cannot be read: {}", error.info()))
}

fn refusal(line: usize, what: String) -> Problem {
    Problem {
        origin: Origin::Line(line),
        key: String::new(),
        what,
    }
}

/// A list or mapping whose end has not come yet.
struct Frame {
    line: usize,
    anchor: usize,
    kind: Open,
}

enum Open {
    List(Vec<Node>),
    Map {
        entries: Vec<(String, Node)>,
        lines: HashMap<String, usize>,
        merged: Vec<Node>,
        key: Option<Key>,
    },
}

struct Key {
    name: String,
    line: usize,
    /// A repeated key: its value is read and dropped.
    refused: bool,
    /// `<<` without quotes: its value is other mappings to take over.
    merge: bool,
}

#[derive(Default)]
struct Builder {
    root: Option<Node>,
    open: Vec<Frame>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    documents: usize,
    problems: Vec<Problem>,
}

impl Builder {
    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), Problem> {
        let line = span.start.line();
        match event {
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err(refusal(
                        line,
                        "a second document begins here, expected one".into(),
                    ));
                }
                Ok(())
            }
            Event::Alias(anchor) => self.alias(anchor, line),
            Event::Scalar(text, style, anchor, tag) => {
                self.tag(tag.as_deref(), line)?;
                self.scalar(&text, style, anchor, line)
            }
            Event::SequenceStart(anchor, tag) => {
                self.tag(tag.as_deref(), line)?;
                self.begin(line, anchor, Open::List(Vec::new()))
            }
            Event::MappingStart(anchor, tag) => {
                self.tag(tag.as_deref(), line)?;
                let (entries, lines, merged) = (Vec::new(), HashMap::new(), Vec::new());
                self.begin(
                    line,
                    anchor,
                    Open::Map {
                        entries,
                        lines,
                        merged,
                        key: None,
                    },
                )
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
        }
    }

    fn tag(&self, tag: Option<&Tag>, line: usize) -> Result<(), Problem> {
        match tag {
            // The type of a value is decided by its key, so a core tag says nothing.
            Some(tag) if !tag.is_yaml_core_schema() => {
                let tag = quote(&tag.to_string());
                Err(refusal(
                    line,
                    format!("the tag {tag} has no meaning here, expected none"),
                ))
            }
            _ => Ok(()),
        }
    }

    fn begin(&mut self, line: usize, anchor: usize, kind: Open) -> Result<(), Problem> {
        if self.awaits_key() {
            return Err(refusal(
                line,
                "a list or mapping stands for a key, expected a text".into(),
            ));
        }
        if self.open.len() == MAX_DEPTH {
            let what = format!("is nested too deeply, expected at most {MAX_DEPTH} levels");
            return Err(refusal(line, what));
        }
        self.open.push(Frame { line, anchor, kind });
        Ok(())
    }

    fn end(&mut self) -> Result<(), Problem> {
        let Some(Frame { line, anchor, kind }) = self.open.pop() else {
            return Ok(());
        };
        let content = match kind {
            Open::List(items) => Content::List(items),
            Open::Map {
                mut entries,
                mut lines,
                merged,
                ..
            } => {
                for (key, node) in merged.into_iter().flat_map(entries_of) {
                    if lines.insert(key.clone(), line).is_none() {
                        entries.push((key, node));
                    }
                }
                Content::Map(entries)
            }
        };
        self.value(
            Node {
                origin: Origin::Line(line),
                content,
            },
            anchor,
            line,
        )
    }

    fn scalar(
        &mut self,
        text: &str,
        style: ScalarStyle,
        anchor: usize,
        line: usize,
    ) -> Result<(), Problem> {
        let plain = style == ScalarStyle::Plain;
        if self.awaits_key() {
            self.begin_entry(text, plain, line);
            return Ok(());
        }
        let scalar = Scalar {
            text: Arc::from(text),
            plain,
            shown: None,
        };
        let node = Node {
            origin: Origin::Line(line),
            content: Content::Scalar(scalar),
        };
        self.value(node, anchor, line)
    }

    fn alias(&mut self, anchor: usize, line: usize) -> Result<(), Problem> {
        if self.awaits_key() {
            return Err(refusal(
                line,
                "an alias stands for a key, expected a text".into(),
            ));
        }
        let Some(node) = self.anchors.get(&anchor) else {
            return Err(refusal(
                line,
                "the alias refers to what it is a part of".into(),
            ));
        };
        // Counted before it is copied: the copy is what a bomb is made of.
        let size = size_of(node);
        let node = node.clone();
        self.count(size - 1, line)?;
        self.value(node, 0, line)
    }

    fn awaits_key(&self) -> bool {
        matches!(
            self.open.last(),
            Some(Frame {
                kind: Open::Map { key: None, .. },
                ..
            })
        )
    }

    fn begin_entry(&mut self, name: &str, plain: bool, line: usize) {
        let merge = plain && name == "<<";
        let first = match self.open.last_mut().map(|frame| &mut frame.kind) {
            Some(Open::Map { lines, key, .. }) => {
                let first = if merge {
                    None
                } else {
                    lines.get(name).copied()
                };
                if first.is_none() && !merge {
                    lines.insert(name.to_owned(), line);
                }
                *key = Some(Key {
                    name: name.to_owned(),
                    line,
                    refused: first.is_some(),
                    merge,
                });
                first
            }
            _ => None,
        };
        if let Some(first) = first {
            let what = format!("is given twice, first on line {first}, expected it once");
            self.problems.push(Problem {
                origin: Origin::Line(line),
                key: self.path(),
                what,
            });
        }
    }

    fn value(&mut self, mut node: Node, anchor: usize, line: usize) -> Result<(), Problem> {
        self.count(1, line)?;
        if anchor > 0 {
            self.count(size_of(&node), line)?;
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut().map(|frame| &mut frame.kind) {
            None => self.root = Some(node),
            Some(Open::List(items)) => items.push(node),
            Some(Open::Map {
                entries,
                merged,
                key,
                ..
            }) => match key.take() {
                Some(Key { refused: true, .. }) | None => {}
                Some(Key { merge: true, .. }) => merged.extend(mappings(node, line)?),
                Some(Key { name, line, .. }) => {
                    node.origin = Origin::Line(line);
                    entries.push((name, node));
                }
            },
        }
        Ok(())
    }

    fn count(&mut self, nodes: usize, line: usize) -> Result<(), Problem> {
        self.nodes += nodes;
        if self.nodes > MAX_NODES {
            let what = format!("too many values, expected at most {MAX_NODES} with aliases put in");
            return Err(refusal(line, what));
        }
        Ok(())
    }

    /// The path of what is open, as messages print it.
    fn path(&self) -> String {
        let mut path = String::new();
        for frame in &self.open {
            match &frame.kind {
                Open::List(items) => path.push_str(&format!("[{}]", items.len())),
                Open::Map { key: Some(key), .. } => {
                    if !path.is_empty() {
                        path.push('.');
                    }
                    path.push_str(&key.name);
                }
                Open::Map { key: None, .. } => {}
            }
        }
        path
    }
}

/// The mappings that a merge key names: one, or a list of them.
fn mappings(node: Node, line: usize) -> Result<Vec<Node>, Problem> {
    let mappings = match node.content {
        Content::List(items) => items,
        _ => vec![node],
    };
    if mappings
        .iter()
        .all(|node| matches!(node.content, Content::Map(_)))
    {
        return Ok(mappings);
    }
    Err(refusal(
        line,
        "`<<` takes over something else, expected a mapping or a list of them".into(),
    ))
}

fn entries_of(node: Node) -> Vec<(String, Node)> {
    match node.content {
        Content::Map(entries) => entries,
        _ => Vec::new(),
    }
}

fn size_of(node: &Node) -> usize {
    match &node.content {
        Content::Scalar(_) | Content::Refused => 1,
        Content::List(items) => 1 + items.iter().map(size_of).sum::<usize>(),
        Content::Map(entries) => 1 + entries.iter().map(|(_, node)| size_of(node)).sum::<usize>(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // A test that cannot go on has failed.
    use super::super::tree::Path;
    use super::*;

    fn text<'a>(root: &'a Node, keys: &[&str]) -> &'a str {
        let node = keys.iter().fold(root, |node, key| node.get(key).unwrap());
        match &node.content {
            Content::Scalar(scalar) => &scalar.text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn values_know_the_line_of_their_key() {
        let (root, _) = parse("a:\n  b:\n    - 1\n    - c:\n        d\n").unwrap();
        let a = Path::Root.key("a");
        let b = a.key("b");
        assert_eq!(root.origin_of(&b), Origin::Line(2));
        let item = b.item(1);
        assert_eq!(root.origin_of(&item), Origin::Line(4));
        assert_eq!(root.origin_of(&item.key("c")), Origin::Line(4));
        assert_eq!(root.origin_of(&item.key("missing")), Origin::Line(4));
        assert_eq!(item.key("c").to_string(), "a.b[1].c");
    }

    #[test]
    fn a_repeated_key_is_a_problem_and_the_first_one_counts() {
        let (root, problems) = parse("a:\n  - b: 1\n    b: 2\n").unwrap();
        assert_eq!(problems[0].key, "a[0].b");
        assert_eq!(problems[0].origin, Origin::Line(3));
        assert_eq!(
            problems[0].what,
            "is given twice, first on line 2, expected it once"
        );
        let Content::List(items) = &root.get("a").unwrap().content else {
            panic!()
        };
        assert_eq!(text(&items[0], &["b"]), "1");
    }

    #[test]
    fn bad_syntax_is_one_problem_with_its_line() {
        let problem = parse("a: 1\nb: [1, 2\nc: 3\n").unwrap_err();
        assert!(matches!(problem.origin, Origin::Line(2 | 3)), "{problem:?}");
        assert!(problem.what.starts_with("the YAML cannot be read: "));
    }

    #[test]
    fn aliases_and_merge_keys_take_over_what_they_name() {
        let (root, problems) =
            parse("base: &b { x: 1, y: 2 }\ncopy: *b\nmore:\n  <<: *b\n  y: 3\n").unwrap();
        assert!(problems.is_empty());
        assert_eq!(text(&root, &["copy", "y"]), "2");
        assert_eq!(text(&root, &["more", "x"]), "1");
        assert_eq!(text(&root, &["more", "y"]), "3");
    }

    #[test]
    fn a_bomb_of_aliases_is_refused() {
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..20 {
            let name = format!("*a{}", level - 1);
            bomb.push_str(&format!(
                "a{level}: &a{level} [{}]\n",
                [name.as_str(); 10].join(", ")
            ));
        }
        assert!(
            parse(&bomb)
                .unwrap_err()
                .what
                .starts_with("too many values")
        );
    }

    #[test]
    fn deep_nesting_a_second_document_and_tags_are_refused() {
        assert!(parse(&"[".repeat(200)).is_err());
        assert!(parse(&format!("{}{}", "[".repeat(80), "]".repeat(80))).is_err());
        assert!(
            parse("a: 1\n---\nb: 2\n")
                .unwrap_err()
                .what
                .starts_with("a second document")
        );
        assert!(
            parse("a: !env X\n")
                .unwrap_err()
                .what
                .contains("has no meaning here")
        );
        assert!(parse("a: !!str 1\n").is_ok());
        assert!(parse("? [a]\n: b\n").is_err());
    }

    #[test]
    fn an_empty_file_is_an_empty_mapping() {
        for empty in ["", "# nothing\n", "---\n", "null\n"] {
            assert!(
                matches!(parse(empty).unwrap().0.content, Content::Map(entries) if entries.is_empty())
            );
        }
    }
}

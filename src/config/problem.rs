//! What is wrong with a configuration, where, and what was expected: one line each.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A line of the file, counted from 1.
    Line(usize),
    /// A line of another file that the configuration names, counted from 1; 0 is that file as a whole.
    File(Arc<str>, usize),
    /// An environment variable that overrides the file.
    Variable(Arc<str>),
    /// The file as a whole.
    Whole,
}

impl Origin {
    /// The same place, in another file than the configuration.
    pub(super) fn in_file(self, file: &Arc<str>) -> Self {
        match self {
            Self::Line(line) => Self::File(Arc::clone(file), line),
            Self::Whole => Self::File(Arc::clone(file), 0),
            elsewhere => elsewhere,
        }
    }

    fn line(&self) -> usize {
        match self {
            Self::Line(line) => *line,
            Self::Whole => 0,
            Self::File(..) => usize::MAX - 1,
            // Overrides come after everything that has a line.
            Self::Variable(_) => usize::MAX,
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where it was written.
    pub origin: Origin,
    /// The key as a path (`routes[2].match.path`); empty for the file as a whole.
    pub key: String,
    /// What is wrong and what was expected.
    pub what: String,
}

impl Problem {
    /// One that concerns the file as a whole.
    pub(super) fn of_the_whole(what: String) -> Self {
        Self {
            origin: Origin::Whole,
            key: String::new(),
            what,
        }
    }
}

/// Everything that is wrong with a configuration, in the order of its lines; never empty.
#[derive(Clone, Debug)]
pub struct Problems {
    file: String,
    list: Vec<Problem>,
}

impl Problems {
    /// Sorts the problems of `file` and drops those that an alias repeats.
    pub(super) fn new(file: &str, mut list: Vec<Problem>) -> Self {
        list.sort_by(|a, b| {
            let by_line = a.origin.line().cmp(&b.origin.line());
            let by_name = || match (&a.origin, &b.origin) {
                (Origin::Variable(a), Origin::Variable(b)) => a.cmp(b),
                (Origin::File(a, x), Origin::File(b, y)) => a.cmp(b).then(x.cmp(y)),
                _ => Ordering::Equal,
            };
            by_line.then_with(by_name)
        });
        list.dedup();
        Self {
            file: file.to_owned(),
            list,
        }
    }

    /// The problems, in the order of their lines.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.list.iter()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.list.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            match &problem.origin {
                Origin::Line(line) => write!(f, "{}:{line}: ", self.file)?,
                Origin::Variable(name) => write!(f, "{name}: ")?,
                Origin::File(name, 0) => write!(f, "{name}: ")?,
                Origin::File(name, line) => write!(f, "{name}:{line}: ")?,
                Origin::Whole => write!(f, "{}: ", self.file)?,
            }
            if !problem.key.is_empty() {
                write!(f, "{}: ", problem.key)?;
            }
            f.write_str(&problem.what)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// Why a text is not what it should be.
///
/// The two halves are apart because the first may quote the text, which must not be shown when it
/// came from the environment or from a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// What is wrong; may quote the text.
    pub detail: String,
    /// What was expected; never quotes the text.
    pub expected: String,
}

impl Invalid {
    /// Says what is wrong and what was expected.
    pub fn new(detail: impl Into<String>, expected: impl Into<String>) -> Self {
        Self {
            detail: detail.into(),
            expected: expected.into(),
        }
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, expected {}", self.detail, self.expected)
    }
}

impl std::error::Error for Invalid {}

/// Longest part of a value that a message repeats.
const QUOTED_CHARS: usize = 80;

/// A value as a message shows it: in backquotes, on one line, not too long.
pub(super) fn quote(text: &str) -> String {
    let mut quoted = String::from("`");
    for (index, character) in text.chars().enumerate() {
        if index == QUOTED_CHARS {
            quoted.push('…');
            break;
        }
        if character.is_control() {
            quoted.extend(character.escape_default());
        } else {
            quoted.push(character);
        }
    }
    quoted.push('`');
    quoted
}

/// `, did you mean …?` for the candidate that is near enough to what was written.
pub(super) fn suggestion<'a>(
    written: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> String {
    let near = candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(written, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len().max(written.len()).div_ceil(3))
        .min();
    near.map_or_else(String::new, |(_, candidate)| {
        format!("did you mean `{candidate}`?")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(origin: Origin, key: &str) -> Problem {
        Problem {
            origin,
            key: key.into(),
            what: "is wrong, expected better".into(),
        }
    }

    #[test]
    fn prints_one_line_each_in_the_order_of_lines() {
        let problems = Problems::new(
            "g.yaml",
            vec![
                problem(Origin::Variable("GATEWAY_LOG_LEVEL".into()), "log.level"),
                problem(Origin::File("keys.yaml".into(), 10), "[1].hash"),
                problem(Origin::File("keys.yaml".into(), 9), "[0].hash"),
                problem(Origin::Line(7), "b"),
                problem(Origin::Line(3), "a"),
                problem(Origin::Line(3), "a"),
            ],
        );
        assert_eq!(
            problems.to_string(),
            "g.yaml:3: a: is wrong, expected better\n\
             g.yaml:7: b: is wrong, expected better\n\
             keys.yaml:9: [0].hash: is wrong, expected better\n\
             keys.yaml:10: [1].hash: is wrong, expected better\n\
             GATEWAY_LOG_LEVEL: log.level: is wrong, expected better"
        );
    }

    #[test]
    fn quotes_on_one_line_and_not_too_long() {
        assert_eq!(quote("a\nb"), "`a\\nb`");
        assert_eq!(quote(&"x".repeat(100)).chars().count(), 83);
    }

    #[test]
    fn suggests_only_what_is_near() {
        assert_eq!(
            suggestion("upstrem", ["upstream", "match"]),
            "did you mean `upstream`?"
        );
        assert_eq!(suggestion("zzz", ["upstream", "match"]), "");
    }
}

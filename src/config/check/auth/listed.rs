//! Lists in files of their own. What is told of them has the lines of the file.

use std::sync::Arc;

use crate::config::check::{Checker, Source};
use crate::config::file::ApiKey;
use crate::config::problem::{Origin, Problem, quote};
use crate::config::scalar::List;
use crate::config::schema::keys_schema;
use crate::config::shape;
use crate::config::tree::{Node, Path};
use crate::config::yaml;

impl Checker<'_> {
    /// Reads a YAML file with a list of keys as the configuration is read, and hands it to `check`
    /// with a checker whose paths and lines are those of the file.
    pub(super) fn listed(
        &mut self,
        file: &str,
        bytes: &[u8],
        at: &Path<'_>,
        check: impl FnOnce(&mut Checker<'_>, &List<ApiKey>),
    ) {
        let name = self.name_of_file(file, at);
        let Some(text) = self.text_of_file(file, bytes, at) else {
            return;
        };
        let (tree, mut problems) = match yaml::parse(text) {
            Ok(parsed) => parsed,
            Err(problem) => return self.take_over(vec![problem], &name),
        };
        let fitted = shape::fit(&tree, keys_schema());
        problems.extend(fitted.problems);
        self.take_over(problems, &name);
        // What is no list was refused above.
        let Ok(list) = serde_json::from_value(fitted.value) else {
            return;
        };
        let source = Source {
            text,
            tree: &tree,
            damaged: &fitted.damaged,
            base: self.source.base,
            env: self.source.env,
        };
        let mut inner = Checker::new(&source);
        inner.listed = Some(name);
        check(&mut inner, &list);
        let (problems, warnings) = (inner.problems, inner.warnings);
        self.problems.extend(problems);
        self.warnings.extend(warnings);
    }

    /// The text of a file, or a problem.
    pub(in crate::config::check) fn text_of_file<'t>(
        &mut self,
        file: &str,
        bytes: &'t [u8],
        at: &Path<'_>,
    ) -> Option<&'t str> {
        let text = std::str::from_utf8(bytes);
        if text.is_err() {
            let shown = self.shown(at, file);
            self.refuse(at, format!("{shown} is not in UTF-8, expected a text"));
        }
        text.ok()
    }

    /// What messages call a file: its path, or what was written when that came from elsewhere.
    pub(in crate::config::check) fn name_of_file(&self, file: &str, at: &Path<'_>) -> Arc<str> {
        match self.source.tree.at(at).and_then(Node::shown) {
            Some(shown) => quote(shown).into(),
            None => self.source.base.join(file).display().to_string().into(),
        }
    }

    /// A place as other messages refer to it.
    pub(super) fn place(&self, at: &Path<'_>) -> String {
        match self.origin_of(at) {
            Origin::File(file, line) => format!("{file}:{line}"),
            _ => at.to_string(),
        }
    }

    fn take_over(&mut self, problems: Vec<Problem>, file: &Arc<str>) {
        let in_file = |problem: Problem| Problem {
            origin: problem.origin.in_file(file),
            ..problem
        };
        self.problems.extend(problems.into_iter().map(in_file));
    }
}

//! Checks the conditions of a route.

use std::collections::{BTreeMap, HashSet};

use http::{HeaderName, Method};

use super::Checker;
use super::header::header_name;
use crate::config::file;
use crate::config::model::{CertCondition, HeaderCondition, Match, QueryCondition, ValueMatch};
use crate::config::pattern::{HostPattern, PathPattern, Tail, regex};
use crate::config::problem::{Invalid, quote};
use crate::config::scalar::List;
use crate::config::tree::Path;

impl Checker<'_> {
    pub(super) fn matcher(&mut self, written: &file::Match, at: &Path<'_>) -> Option<Match> {
        self.at_most_one(at, &["host", "hosts"]);
        self.at_most_one(at, &["path", "paths", "path_regex"]);
        self.at_most_one(at, &["method", "methods"]);
        let hosts = self.any_of(
            at,
            ("host", &written.host),
            ("hosts", &written.hosts),
            HostPattern::parse,
        );
        let methods = self.any_of(
            at,
            ("method", &written.method),
            ("methods", &written.methods),
            method,
        );
        let paths = self.paths(written, at);
        let headers = self.header_conditions(&written.headers, &at.key("headers"));
        let query = self.query_conditions(&written.query, &at.key("query"));
        let client_cert = self.cert_conditions(&written.client_cert, &at.key("client_cert"));
        let mut methods: Vec<Method> = methods?;
        let mut seen = HashSet::new();
        methods.retain(|method| seen.insert(method.clone()));
        Some(Match {
            hosts: hosts?,
            paths: paths?,
            methods,
            headers: headers?,
            query: query?,
            client_cert: client_cert?,
        })
    }

    /// Refuses all but one of the keys that say the same in different ways.
    pub(super) fn at_most_one(&mut self, at: &Path<'_>, keys: &[&str]) {
        let written: Vec<_> = keys
            .iter()
            .filter(|key| self.is_written(&at.key(key)))
            .collect();
        for second in written.iter().skip(1) {
            let what = format!("stands beside `{}`, expected one of them", written[0]);
            self.refuse(&at.key(second), what);
        }
    }

    /// What one key or the list beside it says. An empty list would match everything where
    /// nothing was meant to match, so it is refused.
    fn any_of<T>(
        &mut self,
        at: &Path<'_>,
        (one_key, one): (&str, &Option<String>),
        (list_key, list): (&str, &List<String>),
        parse: fn(&str) -> Result<T, Invalid>,
    ) -> Option<Vec<T>> {
        let list_at = at.key(list_key);
        if list.is_empty() && self.is_written(&list_at) && self.is_whole(&list_at) {
            self.refuse(
                &list_at,
                "is empty, expected at least one, or the key left out",
            );
        }
        let one = one
            .as_ref()
            .map(|text| self.accept(&at.key(one_key), parse(text)));
        let mut all: Vec<Option<T>> = one.into_iter().collect();
        for (index, text) in list.iter() {
            all.push(self.accept(&list_at.item(index), parse(text)));
        }
        all.into_iter().collect()
    }

    fn paths(&mut self, written: &file::Match, at: &Path<'_>) -> Option<Vec<PathPattern>> {
        let (one, list) = (("path", &written.path), ("paths", &written.paths));
        let mut paths = self.any_of(at, one, list, PathPattern::parse)?;
        if let Some(text) = &written.path_regex {
            paths.push(self.accept(&at.key("path_regex"), PathPattern::parse_regex(text))?);
        }
        if paths.is_empty() {
            paths.push(PathPattern::Segments {
                segments: Vec::new(),
                tail: Tail::Prefix,
            });
        }
        Some(paths)
    }

    fn header_conditions(
        &mut self,
        written: &BTreeMap<String, file::Condition>,
        at: &Path<'_>,
    ) -> Option<Vec<HeaderCondition>> {
        let mut conditions: Vec<Option<HeaderCondition>> = Vec::new();
        let mut seen: HashSet<HeaderName> = HashSet::new();
        for (name, condition) in written {
            let at = at.key(name);
            let value = self.value_match(condition, &at);
            let name = self.key_accept(&at, header_name(name));
            if let Some(name) = &name
                && !seen.insert(name.clone())
            {
                self.refuse(&at, "is given twice in different case, expected it once");
            }
            conditions.push(
                name.zip(value)
                    .map(|(name, value)| HeaderCondition { name, value }),
            );
        }
        conditions.into_iter().collect()
    }

    fn query_conditions(
        &mut self,
        written: &BTreeMap<String, file::Condition>,
        at: &Path<'_>,
    ) -> Option<Vec<QueryCondition>> {
        let condition = |(name, condition): (&String, &file::Condition)| {
            let value = self.value_match(condition, &at.key(name));
            value.map(|value| QueryCondition {
                name: name.clone(),
                value,
            })
        };
        // Every problem is wanted, so the list is made before it is judged.
        let conditions: Vec<_> = written.iter().map(condition).collect();
        conditions.into_iter().collect()
    }

    fn cert_conditions(
        &mut self,
        written: &file::ClientCertMatch,
        at: &Path<'_>,
    ) -> Option<Vec<CertCondition>> {
        let present = written.present.map(|present| match present {
            true => CertCondition::Present,
            false => CertCondition::Absent,
        });
        let mut conditions: Vec<Option<CertCondition>> = present.map(Some).into_iter().collect();
        if let Some(text) = &written.subject {
            let found = self.accept(&at.key("subject"), regex(text));
            conditions.push(found.map(CertCondition::Subject));
        }
        if let Some(text) = &written.names {
            let found = self.accept(&at.key("names"), regex(text));
            conditions.push(found.map(CertCondition::Names));
        }
        conditions.into_iter().collect()
    }

    fn value_match(&mut self, written: &file::Condition, at: &Path<'_>) -> Option<ValueMatch> {
        let other = match written {
            file::Condition::Exact(text) => return Some(ValueMatch::Exact(text.clone())),
            file::Condition::Other(other) => other,
        };
        match (other.present, &other.regex) {
            (Some(true), None) => Some(ValueMatch::Present),
            (Some(false), None) => Some(ValueMatch::Absent),
            (None, Some(text)) => self
                .accept(&at.key("regex"), regex(text))
                .map(ValueMatch::Regex),
            _ => {
                if self.is_whole(at) {
                    self.refuse(
                        at,
                        "says not one thing, expected one of `present` and `regex`",
                    );
                }
                None
            }
        }
    }

    /// Like `accept`, for a key: keys are never references, so they may be shown.
    pub(super) fn key_accept<T>(&mut self, at: &Path<'_>, result: Result<T, Invalid>) -> Option<T> {
        result
            .map_err(|invalid| self.refuse(at, invalid.to_string()))
            .ok()
    }
}

/// A method, which is told from others by its case.
pub(super) fn method(text: &str) -> Result<Method, Invalid> {
    let refused = || {
        let expected = "one in upper case such as `GET`";
        Invalid::new(format!("{} is not a method", quote(text)), expected)
    };
    if text.bytes().any(|byte| byte.is_ascii_lowercase()) {
        return Err(refused());
    }
    Method::from_bytes(text.as_bytes()).map_err(|_| refused())
}

//! Which names a certificate is for, and which certificate a name gets.

use std::collections::HashMap;

use x509_parser::prelude::{GeneralName, X509Certificate};

/// The DNS names of a certificate in lower case, wildcards as `*.example.com`.
///
/// The common name counts only when there are no alternative names (RFC 6125 section 6.4.4).
pub(super) fn of(certificate: &X509Certificate<'_>) -> Vec<Box<str>> {
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let mut names: Vec<Box<str>> = match alternative {
        Some(list) => list
            .value
            .general_names
            .iter()
            .filter_map(|name| match name {
                GeneralName::DNSName(name) => normal(name),
                _ => None,
            })
            .collect(),
        None => certificate
            .subject()
            .iter_common_name()
            .filter_map(|name| normal(name.as_str().ok()?))
            .collect(),
    };
    let mut seen = std::collections::HashSet::new();
    names.retain(|name| seen.insert(name.clone()));
    names
}

/// The name as it is looked up; `None` for what no client asks for.
fn normal(name: &str) -> Option<Box<str>> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let rest = name.strip_prefix("*.").unwrap_or(name);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let good = !rest.is_empty() && rest.len() <= 253 && rest.bytes().all(plain);
    good.then(|| name.to_ascii_lowercase().into())
}

/// Which of several certificates a name gets, by index.
#[derive(Debug, Default)]
pub(super) struct Table {
    exact: HashMap<Box<str>, usize>,
    /// By what stands behind `*.`.
    wildcard: HashMap<Box<str>, usize>,
}

impl Table {
    /// Adds a name. The first to claim it keeps it; then that one is returned.
    pub(super) fn claim(&mut self, name: &str, index: usize) -> Option<usize> {
        let (map, key) = match name.strip_prefix("*.") {
            Some(suffix) => (&mut self.wildcard, suffix),
            None => (&mut self.exact, name),
        };
        let owner = *map.entry(key.into()).or_insert(index);
        (owner != index).then_some(owner)
    }

    /// The certificate for a name in lower case: exact, then by the wildcard of one label.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        if let Some(index) = self.exact.get(name) {
            return Some(*index);
        }
        let (_, parent) = name.split_once('.')?;
        self.wildcard.get(parent).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_beats_wildcard_of_one_label() {
        let mut table = Table::default();
        assert_eq!(table.claim("*.a.test", 0), None);
        assert_eq!(table.claim("x.a.test", 1), None);
        assert_eq!(table.claim("a.test", 2), None);
        assert_eq!(table.claim("a.test", 3), Some(2));
        assert_eq!(table.find("x.a.test"), Some(1));
        assert_eq!(table.find("y.a.test"), Some(0));
        assert_eq!(table.find("z.y.a.test"), None);
        assert_eq!(table.find("a.test"), Some(2));
        assert_eq!(table.find("test"), None);
        assert_eq!(table.find(""), None);
    }

    #[test]
    fn names_are_in_lower_case_and_plain() {
        assert_eq!(normal("A.Test.").as_deref(), Some("a.test"));
        assert_eq!(normal("*.A.test").as_deref(), Some("*.a.test"));
        for bad in ["", "*", "*.", "a*.test", "*.*.test", "a b", "a\n"] {
            assert_eq!(normal(bad), None, "{bad:?}");
        }
    }
}

//! Checks header rules and the templates in them.

use std::collections::{BTreeMap, HashSet};

use http::HeaderName;
use http::header;

use super::Checker;
use crate::config::file;
use crate::config::model::HeaderRules;
use crate::config::pattern::{Part, PathPattern, Template, Variable};
use crate::config::problem::{Invalid, quote};
use crate::config::tree::Path;

/// Headers that belong to the connection or frame the message: a rule for them would break it.
const FRAMING: [HeaderName; 7] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
];

impl Checker<'_> {
    pub(super) fn header_rules(
        &mut self,
        written: &file::HeaderRules,
        paths: Option<&[PathPattern]>,
        at: &Path<'_>,
    ) -> Option<HeaderRules> {
        let set = self.header_values(&written.set, paths, &at.key("set"));
        let add = self.header_values(&written.add, paths, &at.key("add"));
        let list = at.key("remove");
        let mut remove = Vec::new();
        for (index, name) in written.remove.iter() {
            let at = list.item(index);
            remove.push(self.accept(&at, header_name(name).and_then(changeable)));
        }
        for (key, names) in [("add", &add), ("remove", &None)] {
            let host = names
                .iter()
                .flatten()
                .any(|(name, _)| *name == header::HOST)
                || key == "remove" && remove.contains(&Some(header::HOST));
            if host {
                self.refuse(
                    &at.key(key),
                    "names `host`, of which a request has one, expected it in `set`",
                );
            }
        }
        Some(HeaderRules {
            remove: remove.into_iter().collect::<Option<_>>()?,
            set: set?,
            add: add?,
        })
    }

    pub(super) fn header_values(
        &mut self,
        written: &BTreeMap<String, String>,
        paths: Option<&[PathPattern]>,
        at: &Path<'_>,
    ) -> Option<Vec<(HeaderName, Template)>> {
        let mut values = Vec::new();
        let mut seen = HashSet::new();
        for (name, text) in written {
            let at = at.key(name);
            let name = self.key_accept(&at, header_name(name).and_then(changeable));
            if let Some(name) = &name
                && !seen.insert(name.clone())
            {
                self.refuse(&at, "is given twice in different case, expected it once");
            }
            values.push(name.zip(self.template(text, paths, &at)));
        }
        values.into_iter().collect()
    }

    /// A template whose path parameters exist in the route's paths, when those are known.
    pub(super) fn template(
        &mut self,
        text: &str,
        paths: Option<&[PathPattern]>,
        at: &Path<'_>,
    ) -> Option<Template> {
        let template = self.accept(at, Template::parse(text))?;
        let missing = template.parts().iter().find_map(|part| match part {
            Part::Variable(Variable::PathParam(name)) => {
                let missing =
                    |paths: &[PathPattern]| !paths.iter().any(|path| path.has_parameter(name));
                paths.is_some_and(missing).then_some(name)
            }
            _ => None,
        });
        if let Some(name) = missing {
            let detail = format!(
                "{} is in no path of the route",
                quote(&format!("path.{name}"))
            );
            let refused = Invalid::new(detail, "a parameter of the route's own path");
            return self.accept(at, Err(refused));
        }
        Some(template)
    }
}

/// The name of a header.
pub(super) fn header_name(text: &str) -> Result<HeaderName, Invalid> {
    HeaderName::from_bytes(text.as_bytes()).map_err(|_| {
        Invalid::new(
            format!("{} is not a header name", quote(text)),
            "one such as `x-user`",
        )
    })
}

pub(super) fn changeable(name: HeaderName) -> Result<HeaderName, Invalid> {
    if FRAMING.contains(&name) {
        let detail = format!("{} belongs to the connection", quote(name.as_str()));
        return Err(Invalid::new(detail, "a header that is passed on"));
    }
    Ok(name)
}

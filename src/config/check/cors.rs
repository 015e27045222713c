//! Checks which web pages of other origins may call.

mod anybody;

use http::Method;

use super::Checker;
use super::header::header_name;
use super::matching::method;
use crate::config::file::{self, AllowedOrigin, RouteCors};
use crate::config::model::{Cors, Listed, Origins};
use crate::config::pattern::OriginPattern;
use crate::config::problem::{Invalid, quote};
use crate::config::scalar::List;
use crate::config::tree::Path;

const EVERY: &str = "*";
/// The origin of pages that do not say theirs.
const NOBODY: &str = "null";

impl Checker<'_> {
    /// The policy at the top.
    pub(super) fn cors(&mut self, written: Option<&file::Cors>, at: &Path<'_>) -> Option<Cors> {
        self.cors_policy(written?, at)
    }

    /// What a route says itself, or else the default; `None` answers no web page of another origin.
    pub(super) fn route_cors(
        &mut self,
        written: Option<&RouteCors>,
        default: Option<&Cors>,
        answered: &[Method],
        at: &Path<'_>,
    ) -> Option<Cors> {
        match written {
            None => default.cloned(),
            Some(RouteCors::Word(word)) => {
                let is_none = word == "none";
                let refused = || Invalid::new(format!("{} is no policy", quote(word)), "`none`");
                self.accept(at, is_none.then_some(()).ok_or_else(refused));
                None
            }
            Some(RouteCors::Policy(policy)) => {
                let policy = self.cors_policy(policy, at)?;
                self.fits_methods(&policy, answered, at);
                Some(policy)
            }
        }
    }

    /// Refuses a list of methods of which the route answers none. The default may be such a list: it is
    /// for many routes.
    fn fits_methods(&mut self, policy: &Cors, answered: &[Method], at: &Path<'_>) {
        let Listed::Only(listed) = &policy.methods else {
            return;
        };
        if policy.methods_of(answered) == Listed::Only(Vec::new()) {
            let what = format!(
                "allows {} alone and `match` has {} alone, so that every preflight is denied, expected a \
                 method that is in both",
                names(listed),
                names(answered),
            );
            self.refuse(&at.key("allow_methods"), what);
        }
    }

    fn cors_policy(&mut self, written: &file::Cors, at: &Path<'_>) -> Option<Cors> {
        let origins = self.origins(written, &at.key("allow_origins"));
        let methods = self.some_or_all(&written.allow_methods, &at.key("allow_methods"), method);
        let headers = &at.key("allow_headers");
        let headers = self.some_or_all(&written.allow_headers, headers, header_name);
        let expose_at = at.key("expose_headers");
        let expose = self.some_or_all(&written.expose_headers, &expose_at, header_name);
        if written.allow_credentials && expose == Some(Listed::Any) {
            let what = "has `*`, which browsers take for a name when there are credentials, \
                        expected names";
            self.refuse(&expose_at, what);
        }
        Some(Cors {
            origins: origins?,
            methods: match methods? {
                Listed::Only(none) if none.is_empty() => Listed::Any,
                methods => methods,
            },
            headers: headers?,
            expose: expose?,
            credentials: written.allow_credentials,
            private_network: written.allow_private_network,
            max_age: written.max_age.0,
        })
    }

    fn origins(&mut self, written: &file::Cors, at: &Path<'_>) -> Option<Origins> {
        if written.allow_origins.is_empty() && self.is_whole(at) {
            self.refuse(at, "has no origin, expected at least one");
        }
        let mut any = false;
        let mut patterns: Vec<Option<OriginPattern>> = Vec::new();
        for (index, origin) in written.allow_origins.iter() {
            let at = at.item(index);
            match origin {
                AllowedOrigin::Text(text) if text == EVERY => {
                    any = true;
                    self.refuse_everybody(written, &at);
                }
                AllowedOrigin::Text(text) => {
                    if text == NOBODY {
                        self.refuse_everybody(written, &at);
                    }
                    patterns.push(self.accept(&at, OriginPattern::parse(text)));
                }
                AllowedOrigin::Expression(expression) => {
                    let at = at.key("regex");
                    let parsed = OriginPattern::parse_regex(&expression.regex);
                    let pattern = self.accept(&at, parsed);
                    let is_let_in = |pattern| anybody::is_let_in(pattern, &expression.regex);
                    // Only where it matters: trying takes a while.
                    if written.allow_credentials && pattern.as_ref().is_some_and(is_let_in) {
                        self.refuse_everybody(written, &at);
                    }
                    patterns.push(pattern);
                }
            }
        }
        let patterns: Option<Vec<OriginPattern>> = patterns.into_iter().collect();
        match any {
            true => Some(Origins::Any),
            false => Some(Origins::Listed(patterns?.into())),
        }
    }

    /// Every page that a user looks at could act in the user's name.
    fn refuse_everybody(&mut self, written: &file::Cors, at: &Path<'_>) {
        if written.allow_credentials {
            let what = "lets every page call with the credentials of whoever looks at it, expected \
                        origins by name beside `allow_credentials`";
            self.refuse(at, what);
        }
    }

    fn some_or_all<T>(
        &mut self,
        written: &List<String>,
        at: &Path<'_>,
        parse: fn(&str) -> Result<T, Invalid>,
    ) -> Option<Listed<T>> {
        let mut any = false;
        let mut found = Vec::new();
        for (index, text) in written.iter() {
            match text == EVERY {
                true => any = true,
                false => found.push(self.accept(&at.item(index), parse(text))),
            }
        }
        let found: Option<Vec<T>> = found.into_iter().collect();
        found.map(|found| match any {
            true => Listed::Any,
            false => Listed::Only(found),
        })
    }
}

fn names(methods: &[Method]) -> String {
    let names: Vec<String> = methods
        .iter()
        .map(|method| quote(method.as_str()))
        .collect();
    names.join(", ")
}

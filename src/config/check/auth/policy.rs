//! Checks what a route asks of its clients.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderValue;

use super::{Schemes, texts};
use crate::config::check::Checker;
use crate::config::file::{self, RouteAuth};
use crate::config::model::{AuthPolicy, ClaimCondition, ClaimMatch};
use crate::config::pattern::PathPattern;
use crate::config::problem::{quote, suggestion};
use crate::config::scalar::List;
use crate::config::tree::Path;

/// Says that nothing is asked for.
const NONE: &str = "none";

impl Checker<'_> {
    /// What routes without `auth` ask for. The outer `None`: it is not sound.
    pub(in crate::config::check) fn default_policy(
        &mut self,
        written: &file::Auth,
        schemes: &Schemes,
    ) -> Option<Option<AuthPolicy>> {
        let root = Path::Root;
        let auth = root.key("auth");
        let at = auth.key("default");
        match &written.default {
            Some(policy) => self.policy(policy, schemes, None, &at),
            None if self.is_whole(&at) => Some(None),
            None => None,
        }
    }

    /// What a route asks for; the outer `None`: it is not sound.
    pub(in crate::config::check) fn policy(
        &mut self,
        written: &RouteAuth,
        schemes: &Schemes,
        paths: Option<&[PathPattern]>,
        at: &Path<'_>,
    ) -> Option<Option<AuthPolicy>> {
        let policy = match written {
            RouteAuth::Name(name) if name == NONE => return Some(None),
            RouteAuth::Name(name) => {
                let index = self.scheme_index(name, schemes, at)?;
                return Some(Some(any_of(vec![index], schemes)));
            }
            RouteAuth::Policy(policy) => policy,
        };
        self.at_most_one(at, &["any_of", "all_of"]);
        let any = self.scheme_indexes(&policy.any_of, schemes, &at.key("any_of"));
        let all = self.scheme_indexes(&policy.all_of, schemes, &at.key("all_of"));
        let claims = self.claims(&policy.claims, paths, &at.key("claims"));
        let (any, all) = (any?, all?);
        if any.is_empty() && all.is_empty() {
            if self.is_whole(at) {
                self.refuse(at, "names no scheme, expected `any_of` or `all_of`");
            }
            return None;
        }
        let is_all = any.is_empty();
        let chosen = if is_all { all } else { any };
        let policy = AuthPolicy {
            challenges: challenges(&chosen, schemes),
            schemes: chosen,
            all: is_all,
            optional: policy.optional,
            scopes: texts(&policy.scopes),
            roles: texts(&policy.roles),
            claims: claims?,
            close_on_expiry: policy.close_on_expiry,
        };
        let asks = !policy.scopes.is_empty() || !policy.roles.is_empty();
        if policy.optional && (asks || !policy.claims.is_empty()) {
            self.refuse(
                &at.key("optional"),
                "stands beside `scopes`, `roles` or `claims`, which nobody has who shows nothing; \
                 expected one or the other",
            );
            return None;
        }
        Some(Some(policy))
    }

    fn scheme_indexes(
        &mut self,
        written: &List<String>,
        schemes: &Schemes,
        at: &Path<'_>,
    ) -> Option<Vec<usize>> {
        let mut found = Vec::new();
        for (index, name) in written.iter() {
            let item = at.item(index);
            let scheme = self.scheme_index(name, schemes, &item);
            if scheme.is_some() && found.contains(&scheme) {
                self.refuse(&item, "is there twice, expected it once");
            }
            found.push(scheme);
        }
        found.into_iter().collect()
    }

    /// The scheme of this name, or a problem. A name that nobody knows never means that everyone is
    /// let in.
    pub(super) fn scheme_index(
        &mut self,
        name: &str,
        schemes: &Schemes,
        at: &Path<'_>,
    ) -> Option<usize> {
        if let Some(index) = schemes.indexes.get(name) {
            return Some(*index);
        }
        let root = Path::Root;
        if schemes.broken || !self.is_whole(&root.key("auth")) {
            // It may be the name of what was refused.
            return None;
        }
        let shown = self.shown(at, name);
        let near = suggestion(name, schemes.indexes.keys().map(String::as_str));
        let hint = match (schemes.indexes.is_empty(), near.is_empty()) {
            (true, _) => "expected a scheme below `auth`, of which there is none".to_owned(),
            (_, true) => format!("expected one of {}", known(schemes)),
            _ => near,
        };
        self.refuse(at, format!("{shown} is no scheme below `auth`, {hint}"));
        None
    }

    fn claims(
        &mut self,
        written: &BTreeMap<String, file::ClaimCondition>,
        paths: Option<&[PathPattern]>,
        at: &Path<'_>,
    ) -> Option<Vec<ClaimCondition>> {
        let mut conditions = Vec::new();
        for (claim, condition) in written {
            let at = at.key(claim);
            let name = self.claim(claim, &at);
            let is = self.claim_match(condition, paths, &at);
            conditions.push(name.zip(is).map(|(claim, is)| ClaimCondition { claim, is }));
        }
        conditions.into_iter().collect()
    }

    /// A claim whose dots lead into objects.
    pub(in crate::config::check) fn claim(&mut self, claim: &str, at: &Path<'_>) -> Option<String> {
        if claim.is_empty() || claim.starts_with('.') || claim.ends_with('.') {
            self.refuse(
                at,
                "is no claim, expected a name such as `realm_access.roles`",
            );
            return None;
        }
        Some(claim.to_owned())
    }

    fn claim_match(
        &mut self,
        written: &file::ClaimCondition,
        paths: Option<&[PathPattern]>,
        at: &Path<'_>,
    ) -> Option<ClaimMatch> {
        let other = match written {
            file::ClaimCondition::Equals(text) => {
                return Some(ClaimMatch::OneOf(vec![text.clone()]));
            }
            file::ClaimCondition::Other(other) => other,
        };
        let one_of = texts(&other.one_of);
        match (
            &other.contains,
            one_of.as_slice(),
            &other.path_param,
            other.present,
        ) {
            (Some(item), [], None, None) => Some(ClaimMatch::Contains(item.clone())),
            (None, [_, ..], None, None) => Some(ClaimMatch::OneOf(one_of)),
            (None, [], Some(name), None) => {
                let known =
                    |paths: &[PathPattern]| paths.iter().all(|path| path.has_parameter(name));
                if paths.is_some_and(known) {
                    return Some(ClaimMatch::PathParam(name.clone()));
                }
                let shown = self.shown(&at.key("path_param"), name);
                let what =
                    format!("{shown} is not in every path of the route, expected one that is");
                self.refuse(&at.key("path_param"), what);
                None
            }
            (None, [], None, Some(true)) => Some(ClaimMatch::Present),
            (None, [], None, Some(false)) => Some(ClaimMatch::Absent),
            _ => {
                if self.is_whole(at) {
                    self.refuse(
                        at,
                        "says not one thing, expected one of `contains`, `one_of`, `path_param` and \
                         `present`",
                    );
                }
                None
            }
        }
    }
}

/// Asks for one of these schemes and nothing more.
pub(super) fn any_of(chosen: Vec<usize>, schemes: &Schemes) -> AuthPolicy {
    let challenges = challenges(&chosen, schemes);
    AuthPolicy::any_of(chosen, challenges)
}

/// What a client is told that showed nothing, each once.
fn challenges(chosen: &[usize], schemes: &Schemes) -> Arc<[HeaderValue]> {
    let mut all: Vec<HeaderValue> = Vec::new();
    for index in chosen {
        // The realm has nothing that a header may not hold, and neither has the rest.
        if let Ok(value) = HeaderValue::from_str(&schemes.challenges[*index])
            && !all.contains(&value)
        {
            all.push(value);
        }
    }
    all.into()
}

fn known(schemes: &Schemes) -> String {
    let mut names: Vec<String> = schemes.indexes.keys().map(|name| quote(name)).collect();
    names.sort();
    names.join(", ")
}

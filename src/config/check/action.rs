//! Checks what a route does with a request: proxy, redirect or respond, and rewrites.

use std::collections::HashMap;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};

use super::Checker;
use super::address::{is_url, url};
use crate::config::file;
use crate::config::model::{Action, FixedResponse, Redirect, Rewrite, WeightedUpstream};
use crate::config::pattern::{HostPattern, PathPattern, regex};
use crate::config::problem::{Invalid, quote, suggestion};
use crate::config::tree::Path;

/// Where upstreams stand in the configuration, by name.
pub(super) type Indexes = HashMap<String, usize>;

const ACTIONS: [&str; 3] = ["upstream", "redirect", "respond"];

/// Keys that say something about the backend's side of a request.
const PROXY_ONLY: [&str; 5] = ["rewrite", "timeouts", "retries", "fallback", "mirror"];

impl Checker<'_> {
    pub(super) fn action(
        &mut self,
        route: &file::Route,
        paths: Option<&[PathPattern]>,
        indexes: &Indexes,
        at: &Path<'_>,
    ) -> Option<Action> {
        let written = ACTIONS
            .iter()
            .filter(|key| self.is_written(&at.key(key)))
            .count();
        if written == 0 && self.is_whole(at) {
            let what = "does nothing, expected one of `upstream`, `redirect` and `respond`";
            self.refuse(at, what);
        }
        self.at_most_one(at, &ACTIONS);
        if written > 0 && !self.is_written(&at.key("upstream")) {
            self.proxy_only(at);
        }
        if let Some(target) = &route.upstream {
            return self.proxy(target, indexes, &at.key("upstream"));
        }
        if let Some(redirect) = &route.redirect {
            return self.redirect(redirect, paths, &at.key("redirect"));
        }
        self.respond(route.respond.as_ref()?, &at.key("respond"))
    }

    fn proxy_only(&mut self, at: &Path<'_>) {
        const WHAT: &str = "has no effect without `upstream`, expected it to be left out";
        for key in PROXY_ONLY {
            if self.is_written(&at.key(key)) {
                self.refuse(&at.key(key), WHAT);
            }
        }
        let headers = at.key("headers");
        if self.is_written(&headers.key("request")) {
            self.refuse(&headers.key("request"), WHAT);
        }
    }

    fn proxy(&mut self, target: &file::Target, indexes: &Indexes, at: &Path<'_>) -> Option<Action> {
        let branches = match target {
            file::Target::One(name) => {
                let upstream = self.reference(name, indexes, at)?;
                return Some(Action::Proxy(vec![WeightedUpstream {
                    upstream,
                    weight: 1,
                }]));
            }
            file::Target::Split(branches) => branches,
        };
        if branches.is_empty() {
            self.refuse(at, "is empty, expected at least one upstream");
            return None;
        }
        let mut split: Vec<Option<WeightedUpstream>> = Vec::new();
        for (index, branch) in branches.iter() {
            let item = at.item(index);
            let upstream = self.reference(&branch.upstream, indexes, &item.key("upstream"));
            let weight = branch.weight;
            split.push(upstream.map(|upstream| WeightedUpstream { upstream, weight }));
        }
        let split: Vec<WeightedUpstream> = split.into_iter().collect::<Option<_>>()?;
        if self.is_whole(at) && split.iter().all(|branch| branch.weight == 0) {
            self.refuse(at, "has no weight, expected at least one above 0");
        }
        Some(Action::Proxy(split))
    }

    pub(super) fn reference(
        &mut self,
        text: &str,
        indexes: &Indexes,
        at: &Path<'_>,
    ) -> Option<usize> {
        if is_url(text) {
            // A URL that is none was refused when the upstreams were made.
            return indexes.get(&url(text).ok()?.upstream_name()).copied();
        }
        self.named(text, indexes, at)
    }

    /// The upstream of this name.
    pub(super) fn named(&mut self, text: &str, indexes: &Indexes, at: &Path<'_>) -> Option<usize> {
        let found = indexes.get(text).copied();
        self.accept(at, found.ok_or_else(|| unknown_upstream(text, indexes)))
    }

    fn redirect(
        &mut self,
        written: &file::Redirect,
        paths: Option<&[PathPattern]>,
        at: &Path<'_>,
    ) -> Option<Action> {
        let status = self.accept(&at.key("status"), redirect_status(written.status));
        let scheme = match written.scheme.as_deref() {
            None | Some("http" | "https") => Ok(()),
            Some(other) => Err(Invalid::new(
                format!("{} is no scheme", quote(other)),
                "`https` or `http`",
            )),
        };
        self.accept(&at.key("scheme"), scheme)?;
        if let Some(host) = &written.host {
            self.accept(&at.key("host"), exact_host(host))?;
        }
        let path = match &written.path {
            Some(text) => {
                let at = at.key("path");
                self.accept(&at, redirect_path(text))?;
                Some(self.template(text, paths, &at)?)
            }
            None => None,
        };
        let changes = written.scheme.is_some() || written.host.is_some() || written.port.is_some();
        if !changes && path.is_none() && self.is_whole(at) {
            self.refuse(
                at,
                "changes nothing, expected one of `scheme`, `host`, `port` and `path`",
            );
        }
        let (scheme, host) = (written.scheme.clone(), written.host.clone());
        Some(Action::Redirect(Redirect {
            status: status?,
            scheme,
            host,
            port: written.port,
            path,
        }))
    }

    fn respond(&mut self, written: &file::Respond, at: &Path<'_>) -> Option<Action> {
        if matches!(written.status, 204 | 205 | 304) && !written.body.is_empty() {
            let what = "stands beside a status that allows no body, expected none";
            self.refuse(&at.key("body"), what);
        }
        let content_type = HeaderValue::from_str(&written.content_type).map_err(|_| {
            let detail = format!("{} is not a content type", quote(&written.content_type));
            Invalid::new(detail, "one such as `text/plain`")
        });
        Some(Action::Respond(FixedResponse {
            status: StatusCode::from_u16(written.status).ok()?,
            content_type: self.accept(&at.key("content_type"), content_type)?,
            body: Bytes::from(written.body.clone()),
        }))
    }

    pub(super) fn rewrite(&mut self, written: &file::Rewrite, at: &Path<'_>) -> Option<Rewrite> {
        let keys = ["strip_prefix", "replace_prefix", "regex"];
        if !keys.iter().any(|key| self.is_written(&at.key(key))) && self.is_whole(at) {
            let what = "does nothing, expected one of `strip_prefix`, `replace_prefix` and `regex`";
            self.refuse(at, what);
        }
        self.at_most_one(at, &keys);
        if let Some(text) = &written.strip_prefix {
            return self
                .accept(&at.key("strip_prefix"), prefix(text))
                .map(Rewrite::StripPrefix);
        }
        if let Some(written) = &written.replace_prefix {
            let at = at.key("replace_prefix");
            let from = self.accept(&at.key("from"), prefix(&written.from));
            let to = self.accept(
                &at.key("to"),
                prefix(&written.to).map(|_| written.to.clone()),
            );
            return Some(Rewrite::ReplacePrefix {
                from: from?,
                to: to?,
            });
        }
        let written = written.regex.as_ref()?;
        let at = at.key("regex");
        let pattern = self.accept(&at.key("pattern"), regex(&written.pattern))?;
        Some(Rewrite::Regex {
            pattern,
            replacement: written.replacement.clone(),
        })
    }
}

fn unknown_upstream(name: &str, indexes: &Indexes) -> Invalid {
    // Those that were made of URLs are no names to be meant.
    let near = suggestion(
        name,
        indexes
            .keys()
            .map(String::as_str)
            .filter(|name| !name.contains(':')),
    );
    let near = if near.is_empty() {
        near
    } else {
        format!(", {near}")
    };
    let expected = "a name under `upstreams`, or a URL such as `http://127.0.0.1:3000`";
    Invalid::new(
        format!("{} is an unknown upstream{near}", quote(name)),
        expected,
    )
}

fn exact_host(text: &str) -> Result<(), Invalid> {
    match HostPattern::parse(text)? {
        HostPattern::Exact(_) => Ok(()),
        HostPattern::Wildcard(_) => Err(Invalid::new(
            format!("{} is more than one host", quote(text)),
            "one such as `example.com`",
        )),
    }
}

fn redirect_status(status: u16) -> Result<StatusCode, Invalid> {
    let known = matches!(status, 301 | 302 | 307 | 308);
    let code = StatusCode::from_u16(status).ok().filter(|_| known);
    code.ok_or_else(|| Invalid::new(format!("`{status}` is no redirect"), "301, 302, 307 or 308"))
}

/// A path that keeps the browser on the host: `//x` would be another one.
fn redirect_path(text: &str) -> Result<(), Invalid> {
    let starts_well =
        text.starts_with("{path}") || text.starts_with('/') && !text.starts_with("//");
    if starts_well && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(());
    }
    let expected = "one that begins with a single `/` or with `{path}` and has no space";
    Err(Invalid::new(
        format!("{} is not a path to redirect to", quote(text)),
        expected,
    ))
}

/// A prefix of whole segments, without a slash at its end.
fn prefix(text: &str) -> Result<String, Invalid> {
    let visible = text
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && !b"?#".contains(&byte));
    if !text.starts_with('/') || text.contains("//") || !visible {
        let detail = format!("{} is not a path prefix", quote(text));
        return Err(Invalid::new(detail, "one such as `/api`"));
    }
    Ok(if text.len() > 1 {
        text.trim_end_matches('/').to_owned()
    } else {
        text.to_owned()
    })
}

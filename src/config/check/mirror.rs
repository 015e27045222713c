//! Checks who gets copies of a route's requests.

use super::Checker;
use super::action::Indexes;
use crate::config::file;
use crate::config::model::{Action, Mirror};
use crate::config::problem::{Invalid, quote};
use crate::config::tree::Path;

/// A name has 63 bytes between two dots (RFC 1035 section 2.3.4), and the suffix is only a part.
const MAX_SUFFIX_BYTES: usize = 32;

impl Checker<'_> {
    /// The mirror of a route that does this. `None`: it is not sound.
    pub(super) fn mirror(
        &mut self,
        written: Option<&file::Mirror>,
        action: Option<&Action>,
        indexes: &Indexes,
        at: &Path<'_>,
    ) -> Option<Option<Mirror>> {
        let Some(written) = written else {
            return Some(None);
        };
        let upstream = self.named(&written.upstream, indexes, &at.key("upstream"))?;
        if let Some(Action::Proxy(branches)) = action
            && branches.iter().any(|branch| branch.upstream == upstream)
        {
            let what = "gets the requests themselves, expected another upstream";
            self.refuse(&at.key("upstream"), what);
        }
        if written.share.0 == 0.0 {
            let what = "copies nothing, expected a share above 0, or no `mirror`";
            self.refuse(&at.key("share"), what);
        }
        let suffix = written.host_suffix.as_deref().map(suffix).transpose();
        Some(Some(Mirror {
            upstream,
            share: written.share.0,
            max_in_flight: written.max_in_flight as usize,
            timeout: written.timeout.0,
            // At most 1 MiB, by the schema.
            max_body: usize::try_from(written.max_body.0).unwrap_or(0),
            host_suffix: self.accept(&at.key("host_suffix"), suffix)?.map(Into::into),
        }))
    }
}

fn suffix(text: &str) -> Result<&str, Invalid> {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
    let fits = !text.is_empty() && text.len() <= MAX_SUFFIX_BYTES;
    if fits && text.bytes().all(is_name) && !text.ends_with(['-', '.']) {
        return Ok(text);
    }
    Err(Invalid::new(
        format!("{} is nothing to put behind a host name", quote(text)),
        "letters, digits, `-` and `.`, such as `-shadow`",
    ))
}

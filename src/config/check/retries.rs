//! Checks when requests are tried again.

use super::Checker;
use crate::config::file;
use crate::config::model::{Backoff, Hedge, Retries, RetryOn, RouteRetries};
use crate::config::scalar::{List, RetryCause};
use crate::config::tree::Path;

impl Checker<'_> {
    /// The retries of an upstream.
    pub(super) fn retries(&mut self, written: &file::Retries, at: &Path<'_>) -> Retries {
        Retries {
            attempts: written.attempts as usize,
            on: self.causes(&written.on, at),
            non_idempotent: written.non_idempotent,
            idempotency_key: written.idempotency_key,
            backoff: self.backoff(&written.backoff, &at.key("backoff")),
            // At most 1 MiB, by the schema.
            max_body: usize::try_from(written.max_body.0).unwrap_or(0),
            hedge: self.hedge(written.hedge.as_ref(), at),
            budget: written.budget.0,
            min_per_second: written.min_per_second,
        }
    }

    /// Those of a route.
    pub(super) fn route_retries(
        &mut self,
        written: &file::RouteRetries,
        at: &Path<'_>,
    ) -> RouteRetries {
        RouteRetries {
            attempts: written.attempts.map(|attempts| attempts as usize),
            on: written.on.as_ref().map(|on| self.causes(on, at)),
            non_idempotent: written.non_idempotent,
            idempotency_key: written.idempotency_key,
            hedge: self.hedge(written.hedge.as_ref(), at),
        }
    }

    fn hedge(&mut self, written: Option<&file::Hedge>, at: &Path<'_>) -> Option<Hedge> {
        let (written, at) = (written?, at.key("hedge"));
        self.at_most_one(&at, &["after", "percentile"]);
        match (&written.after, &written.percentile) {
            (Some(after), _) => Some(Hedge::After(after.0)),
            (None, Some(share)) => {
                if share.0 <= 0.0 || share.0 >= 1.0 {
                    let what =
                        "is no part of the answers, expected more than 0% and less than 100%";
                    self.refuse(&at.key("percentile"), what);
                }
                Some(Hedge::Percentile(share.0))
            }
            (None, None) => {
                if self.is_whole(&at) {
                    let what = "says no time, expected one of `after` and `percentile`";
                    self.refuse(&at, what);
                }
                None
            }
        }
    }

    fn causes(&mut self, written: &List<RetryCause>, at: &Path<'_>) -> RetryOn {
        let at = at.key("on");
        if written.is_empty() && self.is_whole(&at) {
            let what = "is empty, expected at least one cause, or `attempts: 0` in its place";
            self.refuse(&at, what);
        }
        let mut on = RetryOn::default();
        for (_, cause) in written.iter() {
            on.add(cause.0);
        }
        on
    }

    fn backoff(&mut self, written: &file::Backoff, at: &Path<'_>) -> Backoff {
        let (base, mut max) = (written.base.0, written.max.0);
        if max < base {
            if self.is_written(&at.key("max")) {
                self.refuse(
                    &at.key("max"),
                    "is shorter than `base`, expected at least that",
                );
            }
            max = base;
        }
        Backoff { base, max }
    }
}

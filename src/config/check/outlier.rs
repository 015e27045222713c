//! Checks when backends are ejected.

use super::Checker;
use crate::config::file;
use crate::config::model::Outlier;
use crate::config::tree::Path;

impl Checker<'_> {
    pub(super) fn outlier(&mut self, written: &file::Outlier, at: &Path<'_>) -> Outlier {
        let base_ejection = written.base_ejection.0;
        let key = at.key("max_ejection");
        if written.max_ejection.0 < base_ejection && self.is_written(&key) {
            self.refuse(
                &key,
                "is shorter than `base_ejection`, expected at least that",
            );
        }
        Outlier {
            consecutive_failures: written.consecutive_failures,
            consecutive_5xx: written.consecutive_5xx,
            failure_rate: written.failure_rate.0,
            slow_factor: written.slow_factor,
            slow_at_least: written.slow_at_least.0,
            minimum_requests: written.minimum_requests,
            window: written.window.0,
            base_ejection,
            max_ejection: written.max_ejection.0.max(base_ejection),
            max_ejected: written.max_ejected.0,
        }
    }
}

//! Checks what may take how long.

use std::time::Duration;

use http::HeaderName;

use super::Checker;
use super::header::{changeable, header_name};
use crate::config::file;
use crate::config::model::{TimeoutOverrides, Timeouts};
use crate::config::scalar;
use crate::config::tree::Path;

impl Checker<'_> {
    /// The timeouts of an upstream.
    pub(super) fn timeouts(&mut self, written: &file::Timeouts, at: &Path<'_>) -> Timeouts {
        Timeouts {
            connect: written.connect.0,
            first_byte: written.first_byte.0,
            read: written.read.0,
            write: written.write.0,
            upgraded_idle: written.upgraded_idle.0,
            request: length(written.request.as_ref()),
            deadline_header: self.deadline_header(written, &at.key("deadline_header")),
        }
    }

    fn deadline_header(&mut self, written: &file::Timeouts, at: &Path<'_>) -> Option<HeaderName> {
        let name = written.deadline_header.as_deref()?;
        let name = self.accept(at, header_name(name).and_then(changeable))?;
        if name == http::header::HOST {
            self.refuse(
                at,
                "is a header of another meaning, expected one of its own",
            );
        }
        Some(name)
    }
}

/// Those of a route.
pub(super) fn of_route(written: &file::RouteTimeouts) -> TimeoutOverrides {
    TimeoutOverrides {
        connect: length(written.connect.as_ref()),
        first_byte: length(written.first_byte.as_ref()),
        read: length(written.read.as_ref()),
        write: length(written.write.as_ref()),
        request: length(written.request.as_ref()),
    }
}

fn length(written: Option<&scalar::Duration>) -> Option<Duration> {
    written.map(|duration| duration.0)
}

//! Whether a request is sent again after an attempt that came to nothing, and how soon.

use std::time::Duration;

use super::retry::Price;
use crate::config::model::{Backoff, Hedge, Retries, RetryOn, RouteRetries};
use crate::metrics::{RetryReason, RetrySkip};

/// What an upstream and a route say together.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    upstream: &'a Retries,
    route: &'a RouteRetries,
}

impl<'a> Rules<'a> {
    /// The route's word goes first.
    pub fn new(upstream: &'a Retries, route: &'a RouteRetries) -> Self {
        Self { upstream, route }
    }

    /// Attempts after the first.
    pub fn attempts(&self) -> usize {
        self.route.attempts.unwrap_or(self.upstream.attempts)
    }

    /// What for.
    pub fn on(&self) -> &'a RetryOn {
        self.route.on.as_ref().unwrap_or(&self.upstream.on)
    }

    /// Whether what is not idempotent is sent again.
    pub fn non_idempotent(&self) -> bool {
        let of_route = self.route.non_idempotent;
        of_route.unwrap_or(self.upstream.non_idempotent)
    }

    /// Whether an `Idempotency-Key` makes a request idempotent.
    pub fn idempotency_key(&self) -> bool {
        let of_route = self.route.idempotency_key;
        of_route.unwrap_or(self.upstream.idempotency_key)
    }

    /// When a second attempt begins beside the first.
    pub fn hedge(&self) -> Option<Hedge> {
        let hedge = self.route.hedge.or(self.upstream.hedge);
        hedge.filter(|_| self.attempts() > 0)
    }

    /// How soon.
    pub fn backoff(&self) -> Backoff {
        self.upstream.backoff
    }

    /// Whether an attempt that failed like this is followed by another one.
    pub fn are_for(&self, reason: RetryReason) -> bool {
        let on = self.on();
        match reason {
            RetryReason::Connect | RetryReason::ConnectTimeout => on.connect_failure,
            RetryReason::Refused => on.refused_stream,
            RetryReason::Reset | RetryReason::StaleConnection | RetryReason::Protocol => on.reset,
            RetryReason::Timeout => on.timeout,
            // Whether it is one of them was asked with the status at hand.
            RetryReason::Status | RetryReason::GrpcStatus => true,
        }
    }
}

/// An attempt that came to nothing, and what is known of its request.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// What came of it.
    pub reason: RetryReason,
    /// A second arrival does no harm.
    pub is_idempotent: bool,
    /// All of the body that was sent is still here.
    pub is_whole: bool,
    /// Attempts after the first so far.
    pub retries: usize,
    /// How long the backend wants to be left alone.
    pub retry_after: Option<Duration>,
    /// Until the time for the whole request is over.
    pub left: Option<Duration>,
    /// There is another backend.
    pub has_choice: bool,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is sent again, after this time.
    Again(Duration),
    /// Nobody wants it to be.
    Never,
    /// It should be, and cannot.
    Skipped(RetrySkip),
}

/// Decides. `luck` is a random number from 0 to 1; `pay` asks the budget, and is asked last.
pub fn judge(
    rules: &Rules<'_>,
    case: &Case,
    luck: f64,
    pay: impl FnOnce(Price) -> bool,
) -> Verdict {
    let attempts = rules.attempts();
    if attempts == 0 || !rules.are_for(case.reason) {
        return Verdict::Never;
    }
    let harmless = is_unsent(case.reason)
        || case.is_idempotent
        || rules.non_idempotent()
        // A call is a POST always: naming its status is the only way to have it sent again.
        || case.reason == RetryReason::GrpcStatus;
    if !harmless {
        return Verdict::Skipped(RetrySkip::NotIdempotent);
    }
    if !case.is_whole {
        return Verdict::Skipped(RetrySkip::BodyTooLarge);
    }
    if case.retries >= attempts {
        return Verdict::Skipped(RetrySkip::Attempts);
    }
    let backoff = rules.backoff();
    if case.retry_after.is_some_and(|after| after > backoff.max) {
        return Verdict::Skipped(RetrySkip::RetryAfter);
    }
    let wait = wait(case, backoff, luck).max(case.retry_after.unwrap_or_default());
    if case.left.is_some_and(|left| left <= wait) {
        return Verdict::Skipped(RetrySkip::Deadline);
    }
    match pay(price(case.reason)) {
        true => Verdict::Again(wait),
        false => Verdict::Skipped(RetrySkip::Budget),
    }
}

/// A random part of a time that doubles ("full jitter"), so that requests that failed together do not
/// come back together.
fn wait(case: &Case, backoff: Backoff, luck: f64) -> Duration {
    let at_once = match price(case.reason) {
        // A kept connection that was closed says nothing about the backend.
        Price::Nothing => true,
        Price::Unsent => case.has_choice,
        Price::One => false,
    };
    if at_once && case.retries == 0 {
        return Duration::ZERO;
    }
    let times = 1u32 << case.retries.min(16);
    let most = backoff.base.saturating_mul(times).min(backoff.max);
    most.mul_f64(luck.clamp(0.0, 1.0))
}

/// Whether no backend can have acted on the request.
pub fn is_unsent(reason: RetryReason) -> bool {
    matches!(
        reason,
        RetryReason::Connect | RetryReason::ConnectTimeout | RetryReason::Refused
    )
}

/// What a retry costs. A kept connection that was closed is that only once, after it has served.
fn price(reason: RetryReason) -> Price {
    match reason {
        RetryReason::StaleConnection => Price::Nothing,
        reason if is_unsent(reason) => Price::Unsent,
        _ => Price::One,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::Cause;

    const MILLIS: Duration = Duration::from_millis(1);

    fn retries(attempts: usize, on: &[Cause]) -> Retries {
        let mut set = RetryOn::default();
        on.iter().for_each(|cause| set.add(*cause));
        Retries {
            attempts,
            on: set,
            non_idempotent: false,
            idempotency_key: false,
            backoff: Backoff {
                base: 25 * MILLIS,
                max: 250 * MILLIS,
            },
            max_body: 0,
            hedge: None,
            budget: 0.2,
            min_per_second: 3,
        }
    }

    fn case(reason: RetryReason) -> Case {
        Case {
            reason,
            is_idempotent: true,
            is_whole: true,
            retries: 0,
            retry_after: None,
            left: None,
            has_choice: true,
        }
    }

    fn judged(retries: &Retries, case: &Case) -> Verdict {
        let route = RouteRetries::default();
        judge(&Rules::new(retries, &route), case, 1.0, |_| true)
    }

    #[test]
    fn only_what_is_listed_is_tried_again() {
        let usual = retries(
            1,
            &[Cause::ConnectFailure, Cause::RefusedStream, Cause::Reset],
        );
        for (reason, again) in [
            (RetryReason::Connect, true),
            (RetryReason::ConnectTimeout, true),
            (RetryReason::Refused, true),
            (RetryReason::Reset, true),
            (RetryReason::StaleConnection, true),
            (RetryReason::Protocol, true),
            (RetryReason::Timeout, false),
        ] {
            let verdict = judged(&usual, &case(reason));
            assert_eq!(matches!(verdict, Verdict::Again(_)), again, "{reason:?}");
        }
        let slow = retries(1, &[Cause::Timeout]);
        let verdict = judged(&slow, &case(RetryReason::Timeout));
        assert_eq!(verdict, Verdict::Again(25 * MILLIS));
        assert_eq!(judged(&slow, &case(RetryReason::Reset)), Verdict::Never);
        let none = retries(0, &[Cause::Reset]);
        assert_eq!(judged(&none, &case(RetryReason::Reset)), Verdict::Never);
    }

    #[test]
    fn what_may_have_been_acted_on_is_sent_again_only_if_that_is_harmless() {
        let mut rules = retries(
            1,
            &[
                Cause::ConnectFailure,
                Cause::Reset,
                Cause::Statuses(503, 503),
                Cause::Call(14),
            ],
        );
        let post = |reason| Case {
            is_idempotent: false,
            ..case(reason)
        };
        let refused = Verdict::Skipped(RetrySkip::NotIdempotent);
        assert_eq!(judged(&rules, &post(RetryReason::Reset)), refused);
        assert_eq!(judged(&rules, &post(RetryReason::Status)), refused);
        for reason in [RetryReason::Connect, RetryReason::GrpcStatus] {
            let verdict = judged(&rules, &post(reason));
            assert!(matches!(verdict, Verdict::Again(_)), "{reason:?}");
        }
        rules.non_idempotent = true;
        let verdict = judged(&rules, &post(RetryReason::Reset));
        assert!(matches!(verdict, Verdict::Again(_)));
    }

    #[test]
    fn what_cannot_be_sent_again_says_why() {
        let rules = retries(1, &[Cause::Statuses(503, 503)]);
        let status = case(RetryReason::Status);
        let skipped = |case: Case| judged(&rules, &case);
        let large = Case {
            is_whole: false,
            ..status
        };
        assert_eq!(skipped(large), Verdict::Skipped(RetrySkip::BodyTooLarge));
        let second = Case {
            retries: 1,
            ..status
        };
        assert_eq!(skipped(second), Verdict::Skipped(RetrySkip::Attempts));
        let late = Case {
            left: Some(25 * MILLIS),
            ..status
        };
        assert_eq!(skipped(late), Verdict::Skipped(RetrySkip::Deadline));
        let route = RouteRetries::default();
        let broke = judge(&Rules::new(&rules, &route), &status, 0.0, |_| false);
        assert_eq!(broke, Verdict::Skipped(RetrySkip::Budget));
    }

    #[test]
    fn a_backend_is_left_alone_for_as_long_as_it_asks() {
        let rules = retries(1, &[Cause::Statuses(503, 503)]);
        let after = |millis| Case {
            retry_after: Some(millis * MILLIS),
            ..case(RetryReason::Status)
        };
        assert_eq!(judged(&rules, &after(200)), Verdict::Again(200 * MILLIS));
        assert_eq!(judged(&rules, &after(0)), Verdict::Again(25 * MILLIS));
        let skipped = Verdict::Skipped(RetrySkip::RetryAfter);
        assert_eq!(judged(&rules, &after(1000)), skipped);
    }

    #[test]
    fn waits_double_up_to_their_bound() {
        let rules = retries(10, &[Cause::Statuses(503, 503)]);
        let waits = (0..6).map(|retries| {
            let case = Case {
                retries,
                ..case(RetryReason::Status)
            };
            match judged(&rules, &case) {
                Verdict::Again(wait) => wait.as_millis(),
                other => panic!("{other:?}"),
            }
        });
        assert_eq!(waits.collect::<Vec<_>>(), [25, 50, 100, 200, 250, 250]);
    }

    #[test]
    fn nobody_waits_who_was_not_heard_and_can_go_elsewhere() {
        let rules = retries(2, &[Cause::ConnectFailure]);
        let first = case(RetryReason::Connect);
        assert_eq!(judged(&rules, &first), Verdict::Again(Duration::ZERO));
        let alone = Case {
            has_choice: false,
            ..first
        };
        assert_eq!(judged(&rules, &alone), Verdict::Again(25 * MILLIS));
        let second = Case {
            retries: 1,
            ..first
        };
        assert_eq!(judged(&rules, &second), Verdict::Again(50 * MILLIS));
        let stale = Case {
            has_choice: false,
            ..case(RetryReason::StaleConnection)
        };
        let reset = retries(1, &[Cause::Reset]);
        assert_eq!(judged(&reset, &stale), Verdict::Again(Duration::ZERO));
    }

    #[test]
    fn the_route_has_the_last_word() {
        let rules = retries(1, &[Cause::Statuses(503, 503)]);
        let mut on = RetryOn::default();
        on.add(Cause::Timeout);
        let route = RouteRetries {
            attempts: Some(2),
            on: Some(on),
            non_idempotent: Some(true),
            idempotency_key: Some(true),
            hedge: None,
        };
        let rules = Rules::new(&rules, &route);
        assert_eq!((rules.attempts(), rules.on().has_status(503)), (2, false));
        assert!(rules.are_for(RetryReason::Timeout) && rules.idempotency_key());
        assert!(rules.non_idempotent());
    }
}

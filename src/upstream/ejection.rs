//! Takes backends out that fail real requests, and back in: what follows from what is learned of each.

use std::time::{Duration, Instant};

use super::backend::{Admitted, Backend, State};
use super::outlier::judge::judge;
use super::outlier::{Ejection, Failed, Learned};
use super::{LOOK, Upstream};
use crate::metrics::FailureReason;

impl Upstream {
    /// Records that the backend answered an attempt with this status, so long after it could begin to.
    pub(super) fn learn_of_answer(
        &self,
        admitted: &mut Admitted,
        status: u16,
        latency: Duration,
        now: Instant,
    ) {
        let policy = &self.config.outlier;
        let is_server_error = (500..600).contains(&status);
        let backend = admitted.backend();
        let outlier = &backend.known.outlier;
        if policy.compares() {
            outlier.tally.answered(latency, is_server_error);
        }
        let learned = outlier.answered(policy, admitted.pass.as_ref(), is_server_error);
        admitted.is_good = !is_server_error;
        self.follow(admitted.backend(), learned, now);
        if status == 101 {
            // It goes on for as long as both sides like, and has no end that says anything.
            self.completed(admitted, now);
        }
    }

    /// Records that an answer came to its end.
    pub fn completed(&self, admitted: &mut Admitted, now: Instant) {
        if std::mem::take(&mut admitted.is_good) {
            let pass = admitted.pass.take();
            let learned = admitted.backend().known.outlier.completed(pass, now);
            self.follow(admitted.backend(), learned, now);
        }
    }

    /// Records an attempt that the backend did not answer, or not to the end; ejects it when it is time
    /// to.
    pub fn failed(&self, admitted: &mut Admitted, reason: FailureReason, now: Instant) {
        self.metrics.failed(reason);
        if let (FailureReason::Timeout, Some(limit)) = (reason, &self.concurrency)
            && !admitted.is_copy
        {
            limit.unanswered(now);
        }
        let policy = &self.config.outlier;
        let pass = admitted.pass.take();
        let waited = admitted.waits_since;
        let waited = waited.map(|since| now.saturating_duration_since(since));
        let backend = admitted.backend();
        let outlier = &backend.known.outlier;
        let is_broken_off = matches!(
            reason,
            FailureReason::ResetInBody | FailureReason::TimeoutInBody
        );
        if !is_broken_off {
            self.took(backend, waited, false, now);
        }
        if policy.compares() {
            let waited = waited.unwrap_or_default();
            outlier.tally.failed((!is_broken_off).then_some(waited));
        }
        let failed = match is_broken_off {
            true => Failed::BrokenOff(pass),
            false => Failed::Unanswered(pass),
        };
        let learned = outlier.failed(policy, failed);
        let hangs = reason.is_timeout() || reason == FailureReason::ConnectTimeout;
        match learned {
            Learned::Bad(why) => self.eject(backend, why, hangs, now),
            learned => self.follow(backend, learned, now),
        }
    }

    fn follow(&self, backend: &Backend, learned: Learned, now: Instant) {
        match learned {
            Learned::Nothing => {}
            Learned::Bad(why) => self.eject(backend, why, false, now),
            Learned::Returns => self.changed(now),
            Learned::Well => {
                log::info!(
                    "upstream={} backend={} is back: it answers again",
                    self.name,
                    backend.name
                );
                self.changed(now);
            }
        }
    }

    /// Ejects a backend, if that leaves enough of them.
    fn eject(&self, backend: &Backend, why: Ejection, hangs: bool, now: Instant) {
        // First without the lock: where no more may be ejected, each failure comes here.
        if !self.may_eject(backend, now) {
            return;
        }
        let policy = &self.config.outlier;
        let _one_at_a_time = self.plan_alone();
        let members = self.members();
        if !self.may_eject(backend, now) {
            return;
        }
        let Some(time) = backend.known.outlier.eject(policy, hangs, now) else {
            return;
        };
        backend.metrics.ejected(why.reason());
        log::warn!(
            "upstream={} backend={} ejected for {:.1}s: {why}",
            self.name,
            backend.name,
            time.as_secs_f32(),
        );
        self.note_change();
        self.plan_locked(members, now);
    }

    /// Whether enough are left without this one. Whoever is out for another reason is not left either.
    fn may_eject(&self, backend: &Backend, now: Instant) -> bool {
        let state = backend.state(now);
        if state != State::Up {
            // Who returns is counted among those that are out already.
            return state == State::Returning;
        }
        let members = self.members();
        let states = members.iter().map(|one| one.state(now));
        let (mut all, mut out) = (0_usize, 0_usize);
        for state in states.filter(|state| *state != State::Drained) {
            all += 1;
            out += usize::from(state != State::Up);
        }
        out < (self.config.outlier.max_ejected * all as f64) as usize
    }

    /// Takes in who has come back by answers that go on, to be called every [`LOOK`].
    pub(super) fn welcome(&self, now: Instant) {
        for member in self.members().iter() {
            if member.known.outlier.has_come_back() {
                self.follow(member, Learned::Well, now);
            }
        }
    }

    /// Compares the members with each other, to be called every [`LOOK`].
    pub(super) fn compare(&self, now: Instant) {
        let policy = &self.config.outlier;
        if !policy.compares() {
            return;
        }
        let members = self.members();
        let (up, out): (Vec<_>, Vec<_>) = members
            .iter()
            .partition(|member| member.state(now) == State::Up);
        for member in out {
            let known = &member.known;
            known.outlier.tally.forget(known.begun());
        }
        let left = 1.0 - LOOK.as_secs_f32() / policy.window.as_secs_f32();
        let looks: Vec<_> = up
            .iter()
            .map(|member| {
                let known = &member.known;
                known.outlier.tally.look(left.max(0.0), known.begun())
            })
            .collect();
        for (place, why) in judge(policy, &looks, LOOK) {
            let hangs = matches!(why, Ejection::Slow(..) | Ejection::Stalled);
            self.eject(up[place], why, hangs, now);
        }
    }
}

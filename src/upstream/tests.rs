//! Members that come and go, and what is known of them.

mod membership;
mod room;
mod selection;

use super::*;

/// What a configuration means that has this below `upstreams.users`.
fn written(settings: &str) -> model::Upstream {
    let text =
        format!("upstreams: {{ users: {settings} }}\nroutes: [{{ name: a, upstream: users }}]");
    let env = crate::config::FixedEnv::default();
    let loaded = crate::config::parse(&text, "test", std::path::Path::new("."), &env);
    let mut config = loaded.unwrap_or_else(|error| panic!("{error}")).config;
    config.upstreams.remove(0)
}

/// Members at the ports from 1 on, of which two failures in a row eject one.
fn config(members: u16) -> model::Upstream {
    let backends: Vec<_> = (1..=members)
        .map(|port| format!("'127.0.0.1:{port}'"))
        .collect();
    let backends = backends.join(", ");
    written(&format!(
        "{{ backends: [{backends}], outlier: {{ consecutive_failures: 2 }} }}"
    ))
}

fn upstream(members: u16, now: Instant) -> Upstream {
    Upstream::compile(&config(members), &Metrics::new("gateway"), now, None)
}

fn chosen(upstream: &Upstream, now: Instant, times: usize) -> Vec<String> {
    (0..times)
        .filter_map(|_| upstream.select(Wish::at(now), &mut Tried::default()))
        .map(|admitted| admitted.backend().name.to_string())
        .collect()
}

/// A request that the backend is given whatever is thought of it.
fn guest(backend: &Arc<Backend>, now: Instant) -> Admitted {
    let admitted = backend.admit_guest(now);
    admitted.unwrap_or_else(|| panic!("{} is full", backend.name))
}

/// An attempt that the backend does not answer.
fn fail(upstream: &Upstream, backend: &Arc<Backend>, now: Instant) {
    let mut admitted = guest(backend, now);
    upstream.failed(&mut admitted, FailureReason::Connect, now);
}

fn count(upstream: &Upstream, state: State, now: Instant) -> usize {
    let members = upstream.members();
    let those = members.iter().filter(|one| one.state(now) == state);
    those.count()
}

#[test]
fn members_take_turns_and_a_retry_goes_elsewhere() {
    let now = Instant::now();
    let upstream = upstream(2, now);
    assert_eq!(
        chosen(&upstream, now, 3),
        ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:1"]
    );
    let mut tried = Tried::default();
    let first = upstream
        .select(Wish::at(now), &mut tried)
        .map(|a| Arc::clone(a.backend()));
    let second = upstream
        .select(Wish::at(now), &mut tried)
        .map(|a| Arc::clone(a.backend()));
    assert_ne!(
        first.map(|b| b.name.clone()),
        second.map(|b| b.name.clone())
    );
}

#[test]
fn a_failing_member_is_left_out_and_comes_back() {
    let now = Instant::now();
    let upstream = upstream(2, now);
    let failing = Arc::clone(&upstream.members()[0]);
    fail(&upstream, &failing, now);
    assert_eq!(failing.state(now), State::Up);
    fail(&upstream, &failing, now);
    assert_eq!(failing.state(now), State::Ejected);
    assert!(
        chosen(&upstream, now, 4)
            .iter()
            .all(|name| name == "127.0.0.1:2")
    );
    let later = now + Duration::from_secs(12);
    assert!(chosen(&upstream, later, 4).contains(&"127.0.0.1:1".to_owned()));
}

#[test]
fn the_last_members_are_not_ejected() {
    let now = Instant::now();
    let upstream = upstream(2, now);
    for backend in upstream.members().iter() {
        for _ in 0..5 {
            fail(&upstream, backend, now);
        }
    }
    assert_eq!(count(&upstream, State::Ejected, now), 1);
    let alone = Upstream::compile(&config(1), &Metrics::new("gateway"), now, None);
    for _ in 0..9 {
        fail(&alone, &alone.members()[0], now);
    }
    assert_eq!(count(&alone, State::Up, now), 1);
}

#[test]
fn probes_take_members_out_even_the_last_one() {
    let now = Instant::now();
    let upstream = upstream(2, now);
    upstream.probed(&upstream.members()[0], false, None, now);
    assert_eq!(chosen(&upstream, now, 2), ["127.0.0.1:2", "127.0.0.1:2"]);
    upstream.probed(&upstream.members()[1], false, None, now);
    assert!(
        upstream
            .select(Wish::at(now), &mut Tried::default())
            .is_none()
    );
    upstream.probed(&upstream.members()[1], true, None, now);
    assert_eq!(chosen(&upstream, now, 1), ["127.0.0.1:2"]);
}

#[test]
fn connections_are_given_up_only_if_nothing_is_answered() {
    let mut config = config(1);
    config.protocol = model::Protocol::Http2;
    let upstream = Upstream::compile(&config, &Metrics::new("gateway"), Instant::now(), None);
    let members = upstream.members();
    let backend = &members[0];
    let key = || backend.peer(Purpose::Request).group_key;
    let first = key();
    let started = Instant::now();
    let mut admitted = guest(backend, started);
    upstream.answered(&mut admitted, 200, Duration::from_millis(1), Instant::now());
    upstream.waited_in_vain(backend, started);
    assert_eq!(key(), first);
    upstream.waited_in_vain(backend, Instant::now() + Duration::from_secs(1));
    assert_ne!(key(), first);
}

#[test]
fn requests_in_flight_are_given_back() {
    let now = Instant::now();
    let upstream = upstream(1, now);
    let admitted = upstream.select(Wish::at(now), &mut Tried::default());
    assert_eq!(upstream.members()[0].in_flight(), 1);
    drop(admitted);
    assert_eq!(upstream.members()[0].in_flight(), 0);
}

#[test]
fn what_is_known_of_a_member_that_stays_outlives_a_reload() {
    let now = Instant::now();
    let metrics = Metrics::new("gateway");
    let old = Upstream::compile(&config(2), &metrics, now, None);
    let failing = Arc::clone(&old.members()[0]);
    for _ in 0..2 {
        fail(&old, &failing, now);
    }
    let busy = old.select(Wish::at(now), &mut Tried::default());
    let new = Upstream::compile(&config(3), &metrics, now, Some(&old));
    assert_eq!(new.members()[0].state(now), State::Ejected);
    assert_eq!(new.members()[1].in_flight(), 1);
    assert!(Arc::ptr_eq(&new.budget, &old.budget));
    let names = chosen(&new, now, 4);
    assert!(!names.contains(&"127.0.0.1:1".to_owned()), "{names:?}");
    assert!(names.contains(&"127.0.0.1:3".to_owned()), "{names:?}");
    drop(busy);
    assert_eq!(new.members()[1].in_flight(), 0);
}

#[test]
fn what_an_older_generation_learns_counts_in_the_newer_one() {
    let now = Instant::now();
    let metrics = Metrics::new("gateway");
    let old = Upstream::compile(&config(2), &metrics, now, None);
    let new = Upstream::compile(&config(4), &metrics, now, Some(&old));
    assert!(chosen(&new, now, 4).contains(&"127.0.0.1:1".to_owned()));
    for _ in 0..2 {
        fail(&old, &old.members()[0], now);
    }
    assert!(!chosen(&new, now, 8).contains(&"127.0.0.1:1".to_owned()));
}

#[test]
fn a_member_at_another_address_is_another_member() {
    let now = Instant::now();
    let metrics = Metrics::new("gateway");
    let checked =
        written("{ backends: ['127.0.0.1:1'], health_check: { interval: 1s, timeout: 1s } }");
    let old = Upstream::compile(&checked, &metrics, now, None);
    old.probed(&old.members()[0], false, None, now);
    let kept = Upstream::compile(&checked, &metrics, now, Some(&old));
    assert_eq!(kept.members()[0].state(now), State::Down);
    let mut moved = checked.clone();
    moved.backends[0].address.set_port(9);
    let moved = Upstream::compile(&moved, &metrics, now, Some(&kept));
    assert_eq!(moved.members()[0].state(now), State::Up);
    let unchecked = Upstream::compile(&config(1), &metrics, now, Some(&kept));
    assert_eq!(unchecked.members()[0].state(now), State::Up);
}

#[test]
fn a_retry_goes_to_an_ejected_member_before_it_goes_back() {
    let now = Instant::now();
    let upstream = upstream(2, now);
    let members = upstream.members();
    for _ in 0..2 {
        fail(&upstream, &members[0], now);
    }
    assert_eq!(members[0].state(now), State::Ejected);
    let mut tried = Tried::default();
    let names: Vec<_> = (0..3)
        .filter_map(|_| upstream.select(Wish::at(now), &mut tried))
        .map(|admitted| admitted.backend().name.to_string())
        .collect();
    assert_eq!(names, ["127.0.0.1:2", "127.0.0.1:1", "127.0.0.1:2"]);
}

#[test]
fn a_probe_goes_to_whoever_is_ejected_when_everybody_is() {
    let now = Instant::now();
    let config = written(
        "{ backends: ['127.0.0.1:1'], outlier: { consecutive_failures: 1, max_ejected: 100% } }",
    );
    let upstream = Upstream::compile(&config, &Metrics::new("gateway"), now, None);
    fail(&upstream, &upstream.members()[0], now);
    let select = |wish: Wish| upstream.select(wish, &mut Tried::default());
    assert!(select(Wish::at(now)).is_none());
    assert!(select(Wish::at(now).probing(true)).is_some());
    // What an operator or a health check took out stays out.
    upstream.probed(&upstream.members()[0], false, None, now);
    assert!(select(Wish::at(now).probing(true)).is_none());
}

#[test]
fn a_member_that_returns_gets_one_request_at_a_time_until_it_is_well() {
    let now = Instant::now();
    let upstream = upstream(2, now);
    let returning = Arc::clone(&upstream.members()[0]);
    (0..2).for_each(|_| fail(&upstream, &returning, now));
    let later = now + Duration::from_secs(12);
    for _ in 0..2 {
        assert_eq!(returning.state(later), State::Returning);
        let select = || upstream.select(Wish::at(later), &mut Tried::default());
        let admitted: Vec<_> = (0..6).filter_map(|_| select()).collect();
        assert_eq!((admitted.len(), returning.in_flight()), (6, 1));
        for mut one in admitted {
            upstream.answered(&mut one, 200, Duration::ZERO, later);
            upstream.completed(&mut one, later);
        }
    }
    assert_eq!(returning.state(later), State::Up);
    assert_eq!(
        chosen(&upstream, later, 8)
            .iter()
            .filter(|one| **one == *returning.name)
            .count(),
        4
    );
}

#[test]
fn the_last_one_that_serves_is_not_ejected() {
    let now = Instant::now();
    let upstream = upstream(2, now);
    let members = upstream.members();
    upstream.probed(&members[0], false, None, now);
    for _ in 0..10 {
        fail(&upstream, &members[1], now);
    }
    assert_eq!(members[1].state(now), State::Up);
    upstream.probed(&members[0], true, None, now);
    fail(&upstream, &members[1], now);
    assert_eq!(members[1].state(now), State::Ejected);
    // Nor is one beside another that an operator drains.
    upstream.drain(&members[1].name, true, now);
    for _ in 0..10 {
        fail(&upstream, &members[0], now);
    }
    assert_eq!(members[0].state(now), State::Up);
}

#[test]
fn a_guest_that_is_answered_brings_its_backend_back_at_once() {
    let now = Instant::now();
    let upstream = upstream(2, now);
    let first = Arc::clone(&upstream.members()[0]);
    for _ in 0..2 {
        fail(&upstream, &first, now);
    }
    assert!(
        chosen(&upstream, now, 4)
            .iter()
            .all(|name| name.ends_with(":2"))
    );
    let mut admitted = guest(&first, now);
    upstream.answered(&mut admitted, 200, Duration::from_millis(1), now);
    upstream.completed(&mut admitted, now);
    drop(admitted);
    let names = chosen(&upstream, now, 4);
    assert!(names.iter().any(|name| name.ends_with(":1")), "{names:?}");
}

#[test]
fn old_news_of_a_check_shorten_no_wait() {
    let now = Instant::now();
    let upstream = upstream(1, now);
    let Ok(pass) = upstream.let_in(now) else {
        panic!("it is closed");
    };
    upstream.force_circuit(Some(true), now);
    drop(pass);
    let backend = Arc::clone(&upstream.members()[0]);
    upstream.force_circuit(None, now);
    let later = now + Duration::from_secs(60);
    for _ in 0..20 {
        if let Ok(pass) = upstream.let_in(now) {
            upstream.unanswered(pass, FailureReason::Connect, now);
        }
    }
    let state = || upstream.circuit(now).standing.state;
    assert_eq!(state(), CircuitState::Open);
    upstream.probed(&backend, true, None, later);
    assert_eq!(state(), CircuitState::Open, "it was well all the time");
    backend.note_probe(Some("no answer"));
    upstream.probed(&backend, true, None, later);
    assert_eq!(state(), CircuitState::HalfOpen, "it was not");
}

#[test]
fn an_attempt_is_given_back_before_the_wait_for_the_next_one() {
    let now = Instant::now();
    let upstream = upstream(1, now);
    let admitted = upstream.select(Wish::at(now), &mut Tried::default());
    let Some(mut admitted) = admitted else {
        panic!("it is well");
    };
    let backend = Arc::clone(admitted.backend());
    admitted.give_back();
    assert_eq!(backend.in_flight(), 0);
    drop(admitted);
    assert_eq!(backend.in_flight(), 0);
}

#[test]
fn a_member_that_stands_out_is_ejected_between_requests() {
    let now = Instant::now();
    let upstream = upstream(4, now);
    for backend in upstream.members().iter() {
        let is_bad = *backend.name == *"127.0.0.1:3";
        for number in 0..100 {
            let mut admitted = guest(backend, now);
            let status = if is_bad && number % 3 == 0 { 500 } else { 200 };
            upstream.answered(&mut admitted, status, Duration::from_millis(1), now);
        }
    }
    assert_eq!(count(&upstream, State::Up, now), 4);
    upstream.tick(now);
    assert_eq!(upstream.members()[2].state(now), State::Ejected);
    assert_eq!(count(&upstream, State::Up, now), 3);
}

#[test]
fn a_member_that_answers_nothing_while_others_do_is_ejected_between_requests() {
    let now = Instant::now();
    let upstream = upstream(4, now);
    let members = upstream.members();
    let waiting: Vec<_> = (0..10).map(|_| guest(&members[2], now)).collect();
    let answer = |backend| {
        for _ in 0..100 {
            let mut admitted = guest(backend, now);
            upstream.answered(&mut admitted, 200, Duration::from_millis(1), now);
        }
    };
    for _ in 0..2 {
        assert_eq!(count(&upstream, State::Up, now), 4);
        members.iter().step_by(3).for_each(answer);
        upstream.tick(now);
    }
    assert_eq!(members[2].state(now), State::Ejected);
    assert_eq!(members[1].state(now), State::Up, "nobody asked it");
    drop(waiting);
}

#[test]
fn requests_in_flight_are_counted_across_changes_of_the_policy() {
    let now = Instant::now();
    let metrics = Metrics::new("gateway");
    let hash = written("{ backends: ['127.0.0.1:1'], balance: { policy: hash, key: path } }");
    let random = written("{ backends: ['127.0.0.1:1'], balance: random }");
    let begin = |upstream: &Upstream| upstream.select(Wish::at(now), &mut Tried::default());
    let busy = |upstream: &Upstream| {
        let busy = upstream.busy.as_ref();
        busy.map(|busy| busy.load(Ordering::Relaxed))
    };
    let first = Upstream::compile(&hash, &metrics, now, None);
    let of_first = begin(&first);
    let second = Upstream::compile(&hash, &metrics, now, Some(&first));
    let of_second = begin(&second);
    assert_eq!(busy(&second), Some(2), "the same count");
    let third = Upstream::compile(&random, &metrics, now, Some(&second));
    let of_third = begin(&third);
    assert_eq!(busy(&third), None);
    let fourth = Upstream::compile(&hash, &metrics, now, Some(&third));
    let of_fourth = begin(&fourth);
    drop((of_first, of_second, of_third));
    assert_eq!((busy(&second), busy(&fourth)), (Some(0), Some(1)));
    drop(of_fourth);
    assert_eq!(busy(&fourth), Some(0));
    assert_eq!(fourth.members()[0].in_flight(), 0);
}

//! Members that are replaced while requests are chosen for.

use super::*;

/// What a discovery would hand over: backends at these ports, by weight.
fn found(members: &[(u16, u32)]) -> Vec<model::Backend> {
    let backends = members
        .iter()
        .map(|(port, weight)| format!("{{ address: '127.0.0.1:{port}', weight: {weight} }}"));
    let backends: Vec<_> = backends.collect();
    written(&format!("{{ backends: [{}] }}", backends.join(", "))).backends
}

#[test]
fn those_that_stay_keep_what_is_known_and_their_connections() {
    let (now, metrics) = (Instant::now(), Metrics::new("gateway"));
    let upstream = Upstream::compile(&config(3), &metrics, now, None);
    let before = upstream.members();
    upstream.probed(&before[0], false, None, now);
    upstream.set_members(&found(&[(4, 1), (2, 1), (1, 7)]), &metrics, now);
    let after = upstream.members();
    let names: Vec<_> = after.iter().map(|one| &*one.name).collect();
    assert_eq!(names, ["127.0.0.1:4", "127.0.0.1:2", "127.0.0.1:1"]);
    assert!(Arc::ptr_eq(&after[1], &before[1]), "nothing changed of it");
    assert_eq!((after[2].weight, after[2].state(now)), (7, State::Down));
    assert!(Arc::ptr_eq(&after[2].peers, &before[0].peers));
    assert_eq!(after[2].id(), before[0].id());
    let chosen = chosen(&upstream, now, 8);
    assert!(
        chosen
            .iter()
            .all(|name| name != "127.0.0.1:3" && name != "127.0.0.1:1")
    );
}

#[test]
fn a_member_that_goes_finishes_its_requests() {
    let (now, metrics) = (Instant::now(), Metrics::new("gateway"));
    let upstream = Upstream::compile(&config(1), &metrics, now, None);
    let busy = upstream.select(Wish::at(now), &mut Tried::default());
    let gone = busy.as_ref().map(|busy| Arc::clone(busy.backend()));
    let gone = gone.unwrap_or_else(|| panic!("nobody was chosen"));
    upstream.set_members(&found(&[(2, 1)]), &metrics, now);
    assert_eq!(gone.in_flight(), 1);
    let mut busy = busy.unwrap_or_else(|| panic!("nobody was chosen"));
    upstream.answered(&mut busy, 200, Duration::ZERO, now);
    upstream.failed(&mut busy, FailureReason::Reset, now);
    drop(busy);
    assert_eq!(gone.in_flight(), 0);
    assert_eq!(Arc::strong_count(&gone), 1, "nobody else keeps it");
}

#[test]
fn there_may_be_no_members_for_a_time() {
    let (now, metrics) = (Instant::now(), Metrics::new("gateway"));
    let upstream = Upstream::compile(&config(1), &metrics, now, None);
    upstream.set_members(&[], &metrics, now);
    let mut tried = Tried::default();
    assert!(upstream.select(Wish::at(now), &mut tried).is_none());
    upstream.set_members(&found(&[(1, 1)]), &metrics, now);
    assert!(upstream.select(Wish::at(now), &mut tried).is_some());
}

#[test]
fn a_retry_goes_elsewhere_though_members_have_moved() {
    let (now, metrics) = (Instant::now(), Metrics::new("gateway"));
    let upstream = Upstream::compile(&config(2), &metrics, now, None);
    let mut tried = Tried::default();
    let first = upstream.select(Wish::at(now), &mut tried);
    let first = first.map(|first| first.backend().name.to_string());
    assert_eq!(first.as_deref(), Some("127.0.0.1:1"));
    upstream.set_members(&found(&[(3, 1), (1, 500)]), &metrics, now);
    let second = upstream.select(Wish::at(now), &mut tried);
    let second = second.map(|second| second.backend().name.to_string());
    assert_eq!(second.as_deref(), Some("127.0.0.1:3"));
    let third = upstream.select(Wish::at(now), &mut tried);
    assert!(third.is_some(), "when all were tried, any will do");
}

#[test]
fn somebody_is_chosen_at_any_time_while_members_come_and_go() {
    let (now, metrics) = (Instant::now(), Metrics::new("gateway"));
    let upstream = Upstream::compile(&config(6), &metrics, now, None);
    let busy = std::sync::atomic::AtomicUsize::new(3);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..20_000 {
                    let chosen = upstream.select(Wish::at(now), &mut Tried::default());
                    assert!(chosen.is_some());
                }
                busy.fetch_sub(1, Ordering::Relaxed);
            });
        }
        let all = [(1, 1), (2, 1), (3, 2), (4, 1), (5, 1), (6, 1)];
        let mut turn = 0;
        while busy.load(Ordering::Relaxed) > 0 {
            upstream.set_members(&found(&all[..2 + turn % 5]), &metrics, now);
            turn += 1;
        }
    });
    upstream.set_members(&found(&[(1, 1), (2, 1)]), &metrics, now);
    assert!(upstream.members().iter().all(|one| one.in_flight() == 0));
}

#[test]
fn a_discovery_keeps_its_members_across_a_reload_until_it_answers_anew() {
    let (now, metrics) = (Instant::now(), Metrics::new("gateway"));
    let config = |further: &str| {
        written(&format!(
            "{{ backends: ['127.0.0.1:1'], discovery: {{ dns: {{ name: a, port: 9 }} }}, {further} }}"
        ))
    };
    let old = Upstream::compile(&config("retries: { attempts: 1 }"), &metrics, now, None);
    let ports = |upstream: &Upstream| -> Vec<u16> {
        let members = upstream.members();
        members
            .iter()
            .map(|one| one.config.address.port())
            .collect()
    };
    assert_eq!(ports(&old), [1]);
    old.set_members(&found(&[(1, 1), (2, 1), (3, 1)]), &metrics, now);
    let new = Upstream::compile(
        &config("retries: { attempts: 2 }"),
        &metrics,
        now,
        Some(&old),
    );
    assert_eq!(ports(&new), [1, 2, 3]);
    let written = written("{ backends: ['127.0.0.1:1'] }");
    let without = Upstream::compile(&written, &metrics, now, Some(&new));
    assert_eq!(ports(&without), [1], "nobody would take them out");
}

#[test]
fn a_drained_member_is_drained_again_when_it_comes_back() {
    let (now, metrics) = (Instant::now(), Metrics::new("gateway"));
    let upstream = Upstream::compile(&config(2), &metrics, now, None);
    assert!(upstream.drain("127.0.0.1:1", true, now));
    upstream.set_members(&found(&[(2, 1)]), &metrics, now);
    upstream.set_members(&found(&[(1, 1), (2, 1)]), &metrics, now);
    assert_eq!(upstream.members()[0].state(now), State::Draining);
    assert_eq!(chosen(&upstream, now, 2), ["127.0.0.1:2", "127.0.0.1:2"]);
    // Over a reload without it, too.
    let without = Upstream::compile(
        &written("{ backends: ['127.0.0.1:2'] }"),
        &metrics,
        now,
        Some(&upstream),
    );
    let with = Upstream::compile(&config(2), &metrics, now, Some(&without));
    assert_eq!(with.members()[0].state(now), State::Draining);
    assert!(with.is_drained("127.0.0.1:1"));
    // What a predecessor says holds in the place of all that.
    with.set_drained(&["127.0.0.1:2".to_owned()].into(), now);
    let states: Vec<_> = with.members().iter().map(|one| one.state(now)).collect();
    assert_eq!(states, [State::Up, State::Draining]);
    assert_eq!(with.drained().len(), 1);
}

#[test]
fn names_of_drained_members_that_never_return_are_not_kept_for_ever() {
    let (now, metrics) = (Instant::now(), Metrics::new("gateway"));
    let upstream = Upstream::compile(&config(1), &metrics, now, None);
    upstream.drain("127.0.0.1:1", true, now);
    for gone in 0..3000 {
        upstream.drain(&format!("pod-{gone}"), true, now);
    }
    assert!(upstream.drained().len() <= 1000);
    assert!(upstream.is_drained("127.0.0.1:1") && upstream.is_drained("pod-2999"));
}

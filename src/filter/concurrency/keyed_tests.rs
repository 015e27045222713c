//! Who gets a place of a key, in which order, and that every one comes back.

use std::task::{Context, Poll, Waker};

use proptest::prelude::*;

use super::super::tests::most_held;
use super::*;
use crate::metrics::{Format, Metrics, render};

struct Setup {
    metrics: Metrics,
    gate: Arc<Gate>,
}

fn setup() -> Setup {
    let metrics = Metrics::new("gateway");
    let gate = Gate::new(metrics.concurrency("users", "", "client_ip"));
    Setup { metrics, gate }
}

impl Setup {
    /// What is measured: in flight, queued, refused for a full queue.
    fn counts(&self) -> [u32; 3] {
        let page = String::from_utf8(render(&self.metrics, Format::Text).1).unwrap();
        let value = |name: &str, label: &str| {
            let mut lines = page.lines();
            let line = lines.find(|line| line.starts_with(name) && line.contains(label));
            line.map_or(0, |line| line.rsplit_once(' ').unwrap().1.parse().unwrap())
        };
        [
            value("gateway_concurrency_in_flight{", ""),
            value("gateway_concurrency_queued{", ""),
            value("gateway_concurrency_rejected_total{", "full"),
        ]
    }

    fn keys(&self) -> usize {
        let keys = |shard: &Mutex<Lines>| shard.lock().unwrap().len();
        self.gate.shards.iter().map(keys).sum()
    }
}

fn bounds(limit: u32, queue: u32) -> Bounds {
    Bounds {
        limit,
        queue,
        queue_timeout: std::time::Duration::from_secs(1),
    }
}

#[track_caller]
fn place(entered: Entered) -> Place {
    match entered {
        Entered::In(place) => place,
        Entered::Queued(_) => panic!("queued"),
        Entered::Full => panic!("full"),
    }
}

#[track_caller]
fn waiting(entered: Entered) -> Waiting {
    match entered {
        Entered::Queued(waiting) => waiting,
        Entered::In(_) => panic!("let in"),
        Entered::Full => panic!("full"),
    }
}

fn turn(waiting: &mut Waiting) -> Option<Place> {
    match waiting.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(place) => Some(place.unwrap()),
        Poll::Pending => None,
    }
}

#[test]
fn those_who_wait_come_in_order_and_beyond_the_queue_nobody_waits() {
    let setup = setup();
    let (gate, bounds) = (&setup.gate, bounds(2, 2));
    let (one, two) = (place(gate.enter(0, &bounds)), place(gate.enter(0, &bounds)));
    let mut third = waiting(gate.enter(0, &bounds));
    let mut fourth = waiting(gate.enter(0, &bounds));
    assert!(matches!(gate.enter(0, &bounds), Entered::Full));
    assert!(turn(&mut third).is_none());
    assert_eq!(setup.counts(), [2, 2, 1]);
    drop(one);
    // The place is the third's before it looks, and nobody overtakes.
    let mut fifth = waiting(gate.enter(0, &bounds));
    assert!(turn(&mut fourth).is_none());
    let third = turn(&mut third).unwrap();
    drop((two, third));
    assert!(turn(&mut fourth).is_some());
    assert!(turn(&mut fifth).is_some());
    drop((fourth, fifth));
    assert_eq!((setup.counts(), setup.keys()), ([0, 0, 1], 0));
}

#[test]
fn whoever_leaves_the_queue_frees_its_place_in_it() {
    let setup = setup();
    let (gate, bounds) = (&setup.gate, bounds(1, 2));
    let first = place(gate.enter(0, &bounds));
    let second = waiting(gate.enter(0, &bounds));
    let mut third = waiting(gate.enter(0, &bounds));
    drop(second);
    let fourth = waiting(gate.enter(0, &bounds));
    drop(first);
    let place = turn(&mut third).unwrap();
    drop((fourth, place, third));
    assert_eq!((setup.counts(), setup.keys()), ([0, 0, 0], 0));
}

#[test]
fn a_place_that_nobody_takes_goes_to_the_next() {
    let setup = setup();
    let (gate, bounds) = (&setup.gate, bounds(1, 2));
    let first = place(gate.enter(0, &bounds));
    let second = waiting(gate.enter(0, &bounds));
    let mut third = waiting(gate.enter(0, &bounds));
    drop(first);
    assert_eq!(setup.counts(), [1, 1, 0]);
    // It was given a place, and goes away without it.
    drop(second);
    assert!(turn(&mut third).is_some());
    drop(third);
    assert_eq!((setup.counts(), setup.keys()), ([0, 0, 0], 0));
}

#[test]
fn keys_do_not_share_places_and_are_forgotten() {
    let setup = setup();
    let (gate, bounds) = (&setup.gate, bounds(1, 0));
    let places: Vec<Place> = (0..5000)
        .map(|key| place(gate.enter(key, &bounds)))
        .collect();
    assert!(matches!(gate.enter(7, &bounds), Entered::Full));
    assert_eq!(setup.keys(), 5000);
    drop(places);
    assert_eq!(setup.keys(), 0);
    let kept = |shard: &Mutex<Lines>| shard.lock().unwrap().capacity();
    assert!(gate.shards.iter().map(kept).all(|keys| keys <= KEPT_KEYS));
}

#[test]
fn a_lowered_limit_holds_for_what_comes_after_and_a_raised_one_for_who_waits() {
    let setup = setup();
    let gate = &setup.gate;
    let places: Vec<Place> = (0..3)
        .map(|_| place(gate.enter(0, &bounds(3, 5))))
        .collect();
    let mut lowered = waiting(gate.enter(0, &bounds(1, 5)));
    let [first, second, third] = places.try_into().ok().unwrap();
    drop(first);
    drop(second);
    assert!(turn(&mut lowered).is_none(), "one is in, as many as may");
    drop(third);
    let held = turn(&mut lowered).unwrap();
    let mut queued = waiting(gate.enter(0, &bounds(1, 5)));
    let raised = place(gate.enter(0, &bounds(3, 5)));
    assert!(turn(&mut queued).is_some(), "before whoever came later");
    drop((held, raised, queued, lowered));
    assert_eq!((setup.counts(), setup.keys()), ([0, 0, 0], 0));
}

#[test]
fn a_raised_limit_reaches_those_who_wait_by_itself() {
    let setup = setup();
    let gate = &setup.gate;
    let first = place(gate.enter(7, &bounds(1, 5)));
    let mut second = waiting(gate.enter(7, &bounds(1, 5)));
    let mut third = waiting(gate.enter(7, &bounds(1, 5)));
    gate.set_limit(2);
    let second = turn(&mut second).unwrap();
    assert!(turn(&mut third).is_none());
    drop((first, second, third));
    assert_eq!((setup.counts(), setup.keys()), ([0, 0, 0], 0));
}

/// What may happen to a gate.
#[derive(Clone, Debug)]
enum Step {
    Enter { key: u64, limit: u32, queue: u32 },
    Leave(usize),
    GoAway(usize),
    Look(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3_u64, 1..4_u32, 0..4_u32)
            .prop_map(|(key, limit, queue)| Step::Enter { key, limit, queue }),
        2 => any::<usize>().prop_map(Step::Leave),
        1 => any::<usize>().prop_map(Step::GoAway),
        2 => any::<usize>().prop_map(Step::Look),
    ]
}

fn take<T>(list: &mut Vec<T>, index: usize) -> Option<T> {
    (!list.is_empty()).then(|| list.swap_remove(index % list.len()))
}

proptest! {
    #[test]
    fn counts_return_to_zero_whatever_the_order(steps in prop::collection::vec(step(), 0..60)) {
        let setup = setup();
        let (mut places, mut queue) = (Vec::new(), Vec::new());
        for step in steps {
            match step {
                Step::Enter { key, limit, queue: length } => {
                    match setup.gate.enter(key, &bounds(limit, length)) {
                        Entered::In(place) => places.push(place),
                        Entered::Queued(waiting) => queue.push(waiting),
                        Entered::Full => {}
                    }
                }
                Step::Leave(index) => drop(take(&mut places, index)),
                Step::GoAway(index) => drop(take(&mut queue, index)),
                Step::Look(index) => {
                    if let Some(mut waiting) = take(&mut queue, index) {
                        match turn(&mut waiting) {
                            Some(place) => places.push(place),
                            None => queue.push(waiting),
                        }
                    }
                }
            }
            let [in_flight, queued, _] = setup.counts();
            prop_assert_eq!(in_flight as usize + queued as usize, places.len() + queue.len());
        }
        // Nobody waits for ever: as places come back, all get their turn.
        loop {
            let (had_turn, left): (Vec<_>, Vec<_>) = queue
                .drain(..)
                .map(|mut waiting| (turn(&mut waiting), waiting))
                .partition(|(place, _)| place.is_some());
            places.extend(had_turn.into_iter().filter_map(|(place, _)| place));
            queue.extend(left.into_iter().map(|(_, waiting)| waiting));
            match places.pop() {
                Some(place) => drop(place),
                None => break,
            }
        }
        prop_assert_eq!(queue.len(), 0);
        let [in_flight, queued, _] = setup.counts();
        prop_assert_eq!((in_flight, queued, setup.keys()), (0, 0, 0));
    }
}

#[test]
fn workers_never_hold_more_places_of_a_key_than_there_are() {
    let setup = setup();
    let most = most_held(|_| setup.gate.enter(0, &bounds(3, 100)));
    assert!(most <= 3, "{most}");
    assert_eq!((setup.counts(), setup.keys()), ([0, 0, 0], 0));
}

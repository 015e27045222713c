//! Who gets a place of a limit for all, in which order, and that every one comes back.

#![allow(clippy::expect_used, reason = "a failed step is a failed test")]

use std::task::Waker;

use proptest::prelude::*;

use super::*;
use crate::metrics::{Format, render};
use Priority::{Critical, Low, Normal};

struct Setup {
    metrics: Metrics,
    line: Arc<Line>,
    bounds: Bounds,
    now: Instant,
}

fn setup(limit: u32, queue: u32, top: Priority) -> Setup {
    let metrics = Metrics::new("gateway");
    let bounds = bounds(limit, queue);
    Setup {
        line: Line::new(&bounds, top, metrics.concurrency("", "users", "all")),
        metrics,
        bounds,
        now: Instant::now(),
    }
}

fn bounds(limit: u32, queue: u32) -> Bounds {
    Bounds {
        limit,
        queue,
        queue_timeout: Duration::from_secs(1),
    }
}

impl Setup {
    /// What is measured: in flight, queued, refused for a full queue, displaced.
    fn counts(&self) -> [u32; 4] {
        let page = String::from_utf8(render(&self.metrics, Format::Text).1).unwrap();
        let value = |name: &str, label: &str| {
            let mut lines = page.lines();
            let line = lines.find(|line| line.starts_with(name) && line.contains(label));
            line.map_or(0, |line| line.rsplit_once(' ').unwrap().1.parse().unwrap())
        };
        let [in_flight, queued] = [
            value("gateway_concurrency_in_flight{", ""),
            value("gateway_concurrency_queued{", ""),
        ];
        assert_eq!(
            [self.line.taken(), self.line.waiting()],
            [in_flight, queued]
        );
        let refused = "gateway_concurrency_rejected_total{";
        [
            in_flight,
            queued,
            value(refused, "full"),
            value(refused, "displaced"),
        ]
    }

    fn enter(&self, class: Priority) -> Entered {
        match self.line.try_enter(class) {
            Some(place) => Entered::In(place),
            None => self.line.enter(class, &self.bounds, self.now),
        }
    }

    #[track_caller]
    fn place(&self, class: Priority) -> Place {
        match self.enter(class) {
            Entered::In(place) => place,
            Entered::Queued(_) => panic!("queued"),
            Entered::Full => panic!("full"),
        }
    }

    #[track_caller]
    fn waiting(&self, class: Priority) -> Waiting {
        match self.enter(class) {
            Entered::Queued(waiting) => waiting,
            Entered::In(_) => panic!("let in"),
            Entered::Full => panic!("full"),
        }
    }

    fn is_full(&self, class: Priority) -> bool {
        matches!(self.enter(class), Entered::Full)
    }
}

/// Whether it is this one's turn: with a place, or without one.
fn turn(waiting: &mut Waiting) -> Option<Option<Place>> {
    match waiting.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(place) => Some(place),
        Poll::Pending => None,
    }
}

#[track_caller]
fn served(waiting: &mut Waiting) -> Place {
    turn(waiting).expect("its turn").expect("a place")
}

#[test]
fn those_who_wait_come_in_order_and_beyond_the_queue_nobody_waits() {
    let setup = setup(2, 2, Normal);
    let (one, two) = (setup.place(Normal), setup.place(Normal));
    let (mut third, mut fourth) = (setup.waiting(Normal), setup.waiting(Normal));
    assert!(setup.is_full(Normal));
    assert!(turn(&mut third).is_none());
    assert_eq!(setup.counts(), [2, 2, 1, 0]);
    drop(one);
    // The place is the third's before it looks, and nobody overtakes.
    let mut fifth = setup.waiting(Normal);
    assert!(turn(&mut fourth).is_none());
    let third = served(&mut third);
    drop((two, third));
    drop((served(&mut fourth), served(&mut fifth)));
    assert_eq!(setup.counts(), [0, 0, 1, 0]);
}

#[test]
fn whoever_leaves_the_queue_frees_its_place_in_it() {
    let setup = setup(1, 2, Normal);
    let first = setup.place(Normal);
    let (second, mut third) = (setup.waiting(Normal), setup.waiting(Normal));
    drop(second);
    let fourth = setup.waiting(Normal);
    drop(first);
    let place = served(&mut third);
    // The fourth is given the next place, and goes away without it.
    drop(place);
    assert_eq!(setup.counts(), [1, 0, 0, 0]);
    drop(fourth);
    assert_eq!(setup.counts(), [0, 0, 0, 0]);
}

#[test]
fn each_class_has_its_share_and_the_top_has_all() {
    let setup = setup(10, 0, Critical);
    let mut places: Vec<_> = (0..7).map(|_| setup.place(Low)).collect();
    assert!(setup.is_full(Low));
    places.push(setup.place(Normal));
    assert!(setup.is_full(Normal));
    places.extend([setup.place(Priority::High), setup.place(Critical)]);
    assert!(setup.is_full(Critical));
    // Nobody keeps places free for classes that do not come.
    let alone = self::setup(10, 0, Low);
    places.extend((0..10).map(|_| alone.place(Low)));
    assert!(alone.is_full(Low));
}

#[test]
fn the_important_overtake_and_those_below_wait_for_room_of_their_own() {
    let setup = setup(10, 10, Critical);
    let mut places: Vec<_> = (0..8).map(|_| setup.place(Normal)).collect();
    let mut normal = setup.waiting(Normal);
    // There is room for it, though others wait.
    places.extend([setup.place(Critical), setup.place(Critical)]);
    let mut critical = setup.waiting(Critical);
    places.pop();
    let critical = served(&mut critical);
    assert!(turn(&mut normal).is_none());
    places.truncate(7);
    assert!(turn(&mut normal).is_none(), "8 are taken");
    drop(critical);
    drop((served(&mut normal), places));
    assert_eq!(setup.counts(), [0, 0, 0, 0]);
}

#[test]
fn in_a_full_queue_the_less_important_give_way() {
    let setup = setup(1, 2, Critical);
    let first = setup.place(Critical);
    let (mut low, mut later) = (setup.waiting(Low), setup.waiting(Low));
    assert!(setup.is_full(Low));
    let mut normal = setup.waiting(Normal);
    assert!(matches!(turn(&mut later), Some(None)), "has to give way");
    let mut critical = setup.waiting(Critical);
    assert!(matches!(turn(&mut low), Some(None)));
    assert_eq!(setup.counts(), [1, 2, 1, 2]);
    drop(first);
    drop(served(&mut critical));
    drop((served(&mut normal), low, later));
    assert_eq!(setup.counts(), [0, 0, 1, 2]);
}

#[test]
fn where_the_queue_stands_the_last_comes_first() {
    let mut setup = setup(1, 2, Normal);
    let first = setup.place(Normal);
    let (mut second, mut third) = (setup.waiting(Normal), setup.waiting(Normal));
    setup.now += Duration::from_millis(500);
    let mut fourth = setup.waiting(Normal);
    assert!(matches!(turn(&mut second), Some(None)), "the oldest");
    setup.line.set_limit(2, setup.now);
    assert!(turn(&mut third).is_none());
    drop((first, served(&mut fourth)));
    drop(served(&mut third));
    assert_eq!(setup.counts(), [0, 0, 0, 1]);
}

#[test]
fn a_lowered_limit_holds_for_what_comes_after_and_a_raised_one_for_who_waits() {
    let setup = setup(3, 5, Normal);
    let places: Vec<_> = (0..3).map(|_| setup.place(Normal)).collect();
    setup.line.set_limit(1, setup.now);
    let (mut one, mut two) = (setup.waiting(Normal), setup.waiting(Normal));
    let [first, second, third] = places.try_into().ok().unwrap();
    drop((first, second));
    assert!(turn(&mut one).is_none(), "one is in, as many as may");
    drop(third);
    let held = served(&mut one);
    assert!(turn(&mut two).is_none());
    setup.line.set_limit(2, setup.now);
    drop((held, served(&mut two)));
    assert_eq!(setup.counts(), [0, 0, 0, 0]);
}

/// What may happen to a line.
#[derive(Clone, Debug)]
enum Step {
    Enter(usize),
    Limit(u32),
    Pass(u64),
    Leave(usize),
    GoAway(usize),
    Look(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..4_usize).prop_map(Step::Enter),
        1 => (1..6_u32).prop_map(Step::Limit),
        1 => (0..600_u64).prop_map(Step::Pass),
        3 => any::<usize>().prop_map(Step::Leave),
        1 => any::<usize>().prop_map(Step::GoAway),
        2 => any::<usize>().prop_map(Step::Look),
    ]
}

fn take<T>(list: &mut Vec<T>, index: usize) -> Option<T> {
    (!list.is_empty()).then(|| list.swap_remove(index % list.len()))
}

proptest! {
    #[test]
    fn counts_return_to_zero_whatever_the_order(steps in prop::collection::vec(step(), 0..80)) {
        let mut setup = setup(3, 4, Critical);
        let (mut places, mut queue) = (Vec::new(), Vec::new());
        for step in steps {
            match step {
                Step::Enter(class) => match setup.enter(Priority::ALL[class]) {
                    Entered::In(place) => places.push(place),
                    Entered::Queued(waiting) => queue.push(waiting),
                    Entered::Full => {}
                },
                Step::Limit(limit) => setup.line.set_limit(limit, setup.now),
                Step::Pass(millis) => setup.now += Duration::from_millis(millis),
                Step::Leave(index) => drop(take(&mut places, index)),
                Step::GoAway(index) => drop(take(&mut queue, index)),
                Step::Look(index) => {
                    if let Some(mut waiting) = take(&mut queue, index) {
                        match turn(&mut waiting) {
                            Some(place) => places.extend(place),
                            None => queue.push(waiting),
                        }
                    }
                }
            }
            setup.counts();
            prop_assert!(setup.line.waiting() <= 4);
        }
        // Nobody waits for ever: as places come back, all get their turn.
        loop {
            let mut left = Vec::new();
            for mut waiting in queue.drain(..) {
                match turn(&mut waiting) {
                    Some(place) => places.extend(place),
                    None => left.push(waiting),
                }
            }
            queue = left;
            match places.pop() {
                Some(place) => drop(place),
                None => break,
            }
        }
        prop_assert_eq!(queue.len(), 0);
        prop_assert_eq!(&setup.counts()[..2], &[0, 0]);
    }
}

/// The most places that eight workers hold at the same time, each of which asks 2000 times; `enter` is
/// told which of them asks. It ends only if nobody misses a turn.
pub(super) fn most_held(enter: impl Fn(usize) -> Entered + Sync) -> u32 {
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

    let (held, most) = (AtomicU32::new(0), AtomicU32::new(0));
    let work = |worker: usize| {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(async {
            for _ in 0..2000 {
                let place = match enter(worker) {
                    Entered::In(place) => place,
                    Entered::Queued(mut waiting) => {
                        std::future::poll_fn(|context| waiting.poll(context))
                            .await
                            .unwrap()
                    }
                    Entered::Full => panic!("full"),
                };
                most.fetch_max(held.fetch_add(1, SeqCst) + 1, SeqCst);
                std::thread::yield_now();
                held.fetch_sub(1, SeqCst);
                drop(place);
            }
        });
    };
    std::thread::scope(|scope| {
        for worker in 0..8 {
            let work = &work;
            scope.spawn(move || work(worker));
        }
    });
    most.into_inner()
}

#[test]
fn workers_of_all_classes_never_hold_more_places_than_there_are_and_miss_no_turn() {
    let setup = setup(3, 100, Critical);
    let classes = Priority::ALL;
    let most = most_held(|worker| setup.enter(classes[worker % classes.len()]));
    assert!(most <= 3, "{most}");
    assert_eq!(setup.counts(), [0, 0, 0, 0]);
}

#[test]
fn what_was_found_outlives_a_reload_and_other_settings() {
    let metrics = Metrics::new("gateway");
    let now = Instant::now();
    let mut config = UpstreamConcurrency {
        bounds: bounds(50, 10),
        per_backend: None,
        adaptive: Some(crate::config::model::Adaptive {
            min: 4,
            max: 1000,
            slack: 0.5,
        }),
        top: Normal,
    };
    let first = Limit::of_upstream(&config, "users", &metrics, now, None);
    let mut at = now;
    let limit = |limit: &Limit| limit.standing().unwrap().limit;
    while limit(&first) == 50 && at < now + Duration::from_secs(10) {
        at += Duration::from_millis(10);
        first.unanswered(at);
    }
    let found = limit(&first);
    assert!(found < 50, "{found}");
    config.bounds.queue = 20;
    let second = Limit::of_upstream(&config, "users", &metrics, at, Some(&first));
    second.put_into_force(at);
    assert_eq!(limit(&second), found);
    config.adaptive = config
        .adaptive
        .map(|settings| crate::config::model::Adaptive {
            min: 30,
            ..settings
        });
    let third = Limit::of_upstream(&config, "users", &metrics, at, Some(&second));
    third.put_into_force(at);
    assert_eq!(limit(&third), found.max(30));
    config.adaptive = None;
    config.bounds.limit = 7;
    let fixed = Limit::of_upstream(&config, "users", &metrics, at, Some(&third));
    fixed.put_into_force(at);
    assert_eq!(limit(&fixed), 7);
    // Requests that began before go on.
    for _ in 0..200 {
        at += Duration::from_millis(100);
        third.answered(200, Duration::from_millis(10), at);
    }
    assert_eq!(limit(&fixed), 7);
}

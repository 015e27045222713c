//! What is done to the gateway under load: upgrades, and reloads by each of their triggers.

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::fleet::Fleet;
use super::load::Load;
use super::setup::Setup;
use crate::support::client::{get, request};
use crate::support::command::binary;
use crate::support::command::finish;
use crate::support::eventually;

/// How a reload is asked for.
#[derive(Clone, Copy, Debug)]
enum Trigger {
    Signal,
    File,
    Post,
}

const TRIGGERS: [Trigger; 3] = [Trigger::Signal, Trigger::File, Trigger::Post];

/// How long each action took.
#[derive(Default)]
struct Times(Vec<Duration>);

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let longest = self.0.iter().max().copied().unwrap_or_default();
        let all: Duration = self.0.iter().sum();
        let mean = all.checked_div(u32::try_from(self.0.len()).unwrap_or(1));
        write!(
            f,
            "{} in a row, {:.0} ms each, {:.0} ms at most",
            self.0.len(),
            mean.unwrap_or_default().as_secs_f64() * 1000.0,
            longest.as_secs_f64() * 1000.0
        )
    }
}

/// The one who operates the gateway.
pub struct Driver<'a> {
    load: &'a Load,
    setup: &'a Setup,
    fleet: &'a Fleet,
    config: PathBuf,
    generation: u64,
    upgrades: Times,
    reloads: Times,
}

impl<'a> Driver<'a> {
    /// At the first generation, which is running.
    pub fn new(load: &'a Load, setup: &'a Setup, fleet: &'a Fleet) -> Self {
        Self {
            load,
            setup,
            fleet,
            config: setup.config_file(),
            generation: 1,
            upgrades: Times::default(),
            reloads: Times::default(),
        }
    }

    /// So many upgrades, and so many reloads evenly among them.
    pub fn run(&mut self, upgrades: usize, reloads: usize) {
        for upgrade in 0..upgrades {
            self.upgrade();
            while self.reloads.0.len() * upgrades < reloads * (upgrade + 1) {
                self.reload();
            }
        }
        while self.reloads.0.len() < reloads {
            self.reload();
        }
    }

    fn upgrade(&mut self) {
        let before = self.fleet.newest();
        let begun = Instant::now();
        let mut command = binary();
        let done = finish(command.arg("upgrade").arg("-c").arg(&self.config));
        assert_eq!(done.code, Some(0), "gateway upgrade: {}", done.output());
        self.upgrades.0.push(begun.elapsed());
        assert_ne!(self.fleet.newest(), before, "{}", done.output());
        self.assert_serving();
    }

    fn reload(&mut self) {
        self.generation += 1;
        let trigger = TRIGGERS[self.reloads.0.len() % TRIGGERS.len()];
        let begun = Instant::now();
        self.setup.write(self.generation);
        match trigger {
            Trigger::Signal => Fleet::signal("HUP", &[self.fleet.newest()]),
            Trigger::File => {}
            Trigger::Post => self.post(),
        }
        let path = format!("/generation/{}", self.generation);
        eventually(&format!("{path} is served after {trigger:?}"), || {
            get(self.setup.plain, &path).status == 200
        });
        self.reloads.0.push(begun.elapsed());
        self.assert_serving();
        self.load.confirm(self.generation);
    }

    fn post(&self) {
        let token = format!("Authorization: Bearer {}", self.setup.token);
        let headers = [token.as_str(), "Content-Length: 0"];
        let response = request(self.setup.admin, "POST", "/reload", &headers, b"");
        assert_eq!(response.status, 200, "{}", response.text());
    }

    /// The route of this generation is there, and the one of the last is gone.
    fn assert_serving(&self) {
        let status =
            |generation| get(self.setup.plain, &format!("/generation/{generation}")).status;
        assert_eq!(status(self.generation), 200);
        assert_ne!(status(self.generation - 1), 200);
    }

    /// What was done, in two lines.
    pub fn summary(&self) -> String {
        format!("upgrades: {}\nreloads: {}\n", self.upgrades, self.reloads)
    }
}

//! When the process ends and how: what asks for it, and what is done so that no request is lost.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::config::model::Shutdown;
use crate::lifecycle::Lifecycle;
use crate::notify;
use crate::upgrade::control::Control;
use crate::upgrade::predecessor::Predecessor;

/// How long both ends of a WebSocket may take to answer that they close, too.
const GOODBYE: Duration = Duration::from_secs(3);

/// How long it may take to tell whoever asked for an upgrade.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Why the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Somebody wants it.
    Signal,
    /// A successor is in charge.
    Successor,
    /// It was to be a successor, and the other process has given it up.
    GivenUp,
}

/// What the connections are told.
pub struct Orders {
    /// True: accept no more, and leave idle connections what is left of their grace.
    pub close: watch::Sender<bool>,
    /// True: the drain period is over, upgraded connections are to close.
    pub end: watch::Sender<bool>,
}

/// The end of the process.
pub struct Exit {
    lifecycle: Arc<Lifecycle>,
    /// What the configuration in force says about the end.
    shutdown: Box<dyn Fn() -> Shutdown + Send + Sync>,
    orders: Orders,
    control: Option<Control>,
    /// Until it was told that this process serves.
    predecessor: Mutex<Option<Predecessor>>,
    /// Told when this process is in charge, with what its predecessor left.
    in_charge: Box<dyn Fn(serde_json::Value) + Send + Sync>,
}

impl Exit {
    /// Of a process that serves already.
    pub fn new(
        lifecycle: Arc<Lifecycle>,
        shutdown: Box<dyn Fn() -> Shutdown + Send + Sync>,
        orders: Orders,
        control: Option<Control>,
        predecessor: Option<Predecessor>,
        in_charge: Box<dyn Fn(serde_json::Value) + Send + Sync>,
    ) -> Self {
        Self {
            lifecycle,
            shutdown,
            orders,
            control,
            predecessor: Mutex::new(predecessor),
            in_charge,
        }
    }

    /// Waits for a reason to end.
    pub async fn cause(&self) -> Cause {
        // Before anybody is told that this process serves, and may send it a signal.
        let (mut stop, mut quit) = (Stop::watch(), watched(SignalKind::quit()));
        tokio::select! {
            () = stop.asked() => Cause::Signal,
            cause = self.succession() => cause,
            cause = self.quit(quit.as_mut()) => cause,
        }
    }

    /// Takes over from the predecessor, and serves until a successor is in charge.
    async fn succession(&self) -> Cause {
        let predecessor = self
            .predecessor
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        match predecessor.map(Predecessor::ready) {
            None => {
                (self.in_charge)(serde_json::Value::Null);
                notify::ready();
            }
            Some(told) => {
                let left = match told {
                    // Without a word the other process has ended.
                    Ok(told) => told.await.unwrap_or(Some(serde_json::Value::Null)),
                    Err(error) => {
                        log::error!("upgrade: the running gateway cannot be told: {error}");
                        None
                    }
                };
                let Some(left) = left else {
                    return Cause::GivenUp;
                };
                (self.in_charge)(left);
                log::info!("upgrade: this process is in charge");
                notify::in_charge();
            }
        }
        match &self.control {
            Some(control) => control.serve().await,
            None => std::future::pending().await,
        }
        Cause::Successor
    }

    /// Lets a successor take over at SIGQUIT. Without one the process stays.
    async fn quit(&self, quit: Option<&mut Signal>) -> Cause {
        let Some(quit) = quit else {
            return std::future::pending().await;
        };
        while quit.recv().await.is_some() {
            let Some(control) = &self.control else {
                log::error!("SIGQUIT: there can be no successor, so this process stays");
                continue;
            };
            let patience = control.timeout();
            let seconds = patience.as_secs_f32();
            log::info!("SIGQUIT: waiting up to {seconds}s for a successor that serves");
            control.ask();
            // When one comes, this is not waited for any longer.
            sleep(patience).await;
            control.unask();
            log::error!("SIGQUIT: no successor serves after {seconds}s, so this process stays");
        }
        std::future::pending().await
    }

    /// Ends what is open, each in its time.
    pub async fn drain(&self, cause: Cause) {
        let mut stop = Stop::watch();
        let asked_again = async {
            // One who stops the service during an upgrade asks this process for the first time.
            if cause != Cause::Signal {
                stop.asked().await;
                log::info!("asked to stop: this process is ending already");
            }
            stop.asked().await;
        };
        tokio::select! {
            () = self.finish(cause) => {}
            () = asked_again => log::warn!("asked again to stop: not waiting any longer"),
        }
    }

    async fn finish(&self, cause: Cause) {
        let shutdown = (self.shutdown)();
        let succeeds = self.control.as_ref().is_some_and(Control::succeed);
        if cause == Cause::Signal && !succeeds {
            let delay = shutdown.delay.as_secs_f32();
            log::info!("draining: readiness fails, listeners close after {delay}s");
            notify::stopping();
            self.lifecycle.begin_drain();
            self.release();
            sleep(shutdown.delay).await;
        } else {
            log::info!("draining: another process serves");
            self.lifecycle.begin_succession();
            self.release();
        }
        self.orders.close.send_replace(true);
        if let Some(control) = &self.control {
            control.leave();
        }
        if timeout(shutdown.drain_timeout, self.lifecycle.idle())
            .await
            .is_err()
        {
            self.orders.end.send_replace(true);
            // Those that are left have been told; the outcome is looked at below.
            let _ = timeout(GOODBYE, self.lifecycle.idle()).await;
        }
        if let Some(control) = &self.control {
            // Whoever asked for the upgrade is told how it went.
            let _ = timeout(LAST_WORDS, control.settled()).await;
        }
        match self.lifecycle.in_flight() {
            0 => log::info!("drained: nothing is in flight"),
            left => log::warn!("drain timeout: {left} requests in flight are cut off"),
        }
    }

    /// Gives the duplicates of the sockets up, which would keep them open.
    fn release(&self) {
        if let Some(control) = &self.control {
            control.close();
        }
    }
}

/// SIGTERM and SIGINT.
struct Stop([Option<Signal>; 2]);

impl Stop {
    fn watch() -> Self {
        Self([SignalKind::terminate(), SignalKind::interrupt()].map(watched))
    }

    async fn asked(&mut self) {
        std::future::poll_fn(|context| {
            for signal in self.0.iter_mut().flatten() {
                if signal.poll_recv(context).is_ready() {
                    return std::task::Poll::Ready(());
                }
            }
            std::task::Poll::Pending
        })
        .await;
    }
}

fn watched(kind: SignalKind) -> Option<Signal> {
    signal(kind)
        .inspect_err(|error| log::error!("a signal cannot be watched: {error}"))
        .ok()
}

//! The running gateway's side: answers those who ask through its socket, hands its sockets over, and
//! says when a successor is in charge.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::place::{Bound, Place};
use super::program::Program;
use super::wire::{Link, MAX_DESCRIPTORS, Message};
use super::{Kind, Named, Offer};
use crate::notify;

/// Conversations at once; there is hardly ever more than one.
const MAX_CONVERSATIONS: usize = 8;
/// How long somebody who connects may take to say what for.
const FIRST_WORD: Duration = Duration::from_secs(5);
/// Between two looks at a child or a flag.
const LOOK: Duration = Duration::from_millis(20);

/// How long whoever asked for an upgrade waits until this process accepts nothing any more.
const LEAVING: Duration = Duration::from_secs(1);
/// Between two looks at whether it does.
const LEAVING_LOOK: Duration = Duration::from_millis(2);

/// What is worth keeping beside the sockets.
pub type State = Arc<dyn Fn() -> serde_json::Value + Send + Sync>;

/// Where in its life the process is, as its status names it.
pub type Life = Box<dyn Fn() -> &'static str + Send + Sync>;

/// What can be handed over, and how.
pub struct Settings {
    /// Where successors ask.
    pub socket: Bound,
    /// The sockets that they may have.
    pub offers: Vec<Offer>,
    /// How to start one.
    pub program: Program,
    /// How long one may take.
    pub timeout: Duration,
    /// What they are told beside.
    pub state: State,
    /// What the one that takes over is told at last. From this call on it must not change.
    pub last_state: State,
    /// Where in its life the process is.
    pub life: Life,
}

/// The running gateway's side of upgrades.
pub struct Control(Arc<Inner>);

struct Inner {
    settings: Mutex<Option<Settings>>,
    last_state: State,
    timeout: Duration,
    phase: Mutex<Phase>,
    /// A successor was asked for by SIGQUIT, and need not wait for it any more.
    asked: AtomicBool,
    /// Turns true when a successor is in charge, or the process ends.
    over: watch::Sender<Option<Over>>,
    conversations: AtomicUsize,
    /// It has begun to answer, so that the socket's path is its own.
    in_charge: AtomicBool,
    /// It accepts nothing any more.
    has_left: AtomicBool,
}

/// Why nobody is answered any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    /// A successor is in charge, and answers at the same socket if that is true.
    Succeeded { keeps_control: bool },
    /// The process ends.
    Closed,
}

/// How far an upgrade is.
enum Phase {
    /// There is no successor.
    Alone,
    /// There is one that does not serve yet. Whoever started it is told how that ends.
    Starting(Option<mpsc::Sender<Result<i32, String>>>),
    /// There is one that serves beside this one, and waits for SIGQUIT or for its end.
    Beside {
        /// It has taken the socket that successors ask through.
        keeps_control: bool,
        peer: i32,
    },
    /// There is one that does, or the process ends.
    Over,
}

impl Control {
    /// Over these sockets.
    pub fn new(settings: Settings) -> Self {
        Self(Arc::new(Inner {
            timeout: settings.timeout,
            last_state: Arc::clone(&settings.last_state),
            settings: Mutex::new(Some(settings)),
            phase: Mutex::new(Phase::Alone),
            asked: AtomicBool::new(false),
            over: watch::Sender::new(None),
            conversations: AtomicUsize::new(0),
            in_charge: AtomicBool::new(false),
            has_left: AtomicBool::new(false),
        }))
    }

    /// How long a successor may take.
    pub fn timeout(&self) -> Duration {
        self.0.timeout
    }

    /// Answers until a successor is in charge; then it returns. Never when it cannot answer.
    pub async fn serve(&self) {
        self.0.in_charge.store(true, SeqCst);
        self.0.restore_path();
        let listener = lock(&self.0.settings)
            .as_ref()
            .and_then(|settings| settings.socket.listener.try_clone().ok());
        let Some(listener) = listener.and_then(polled) else {
            log::error!("upgrade: the socket cannot be polled");
            return std::future::pending().await;
        };
        let mut over = self.0.over.subscribe();
        let succeeded = over.wait_for(|over| matches!(over, Some(Over::Succeeded { .. })));
        tokio::select! {
            _ = succeeded => {}
            () = self.answer(listener) => {}
        }
    }

    async fn answer(&self, listener: tokio::net::UnixListener) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    if let Err(error) = stream.into_std().and_then(|stream| self.begin(stream)) {
                        log::warn!("upgrade: {error}");
                    }
                }
                Err(error) => {
                    log::warn!("upgrade: cannot accept: {error}");
                    tokio::time::sleep(LOOK).await;
                }
            }
        }
    }

    /// Talks with somebody in a thread that may block.
    fn begin(&self, stream: UnixStream) -> io::Result<()> {
        let mut link = Link::new(stream)?;
        let inner = Arc::clone(&self.0);
        if inner.conversations.fetch_add(1, SeqCst) >= MAX_CONVERSATIONS {
            inner.conversations.fetch_sub(1, SeqCst);
            return Err(io::Error::other("too many connections to the socket"));
        }
        let talk = move || {
            if let Err(error) = inner.talk(&mut link) {
                log::warn!("upgrade: {error}");
            }
            inner.conversations.fetch_sub(1, SeqCst);
        };
        std::thread::Builder::new()
            .name("upgrade".to_owned())
            .spawn(talk)
            .map(drop)
    }

    /// Lets a successor that serves, or soon will, take over.
    pub fn ask(&self) {
        self.0.asked.store(true, SeqCst);
    }

    /// Forgets that it was asked.
    pub fn unask(&self) {
        self.0.asked.store(false, SeqCst);
    }

    /// Lets a successor that serves beside this process take over because this process ends. Says
    /// whether there is one in charge now.
    pub fn succeed(&self) -> bool {
        let mut phase = lock(&self.0.phase);
        if let Phase::Beside {
            keeps_control,
            peer,
        } = *phase
        {
            self.0.pass_on(&mut phase, keeps_control, peer);
        }
        matches!(*self.0.over.borrow(), Some(Over::Succeeded { .. }))
    }

    /// Tells that this process accepts nothing any more.
    pub fn leave(&self) {
        self.0.has_left.store(true, SeqCst);
    }

    /// Waits until everybody who was being answered has been.
    pub async fn settled(&self) {
        while self.0.conversations.load(SeqCst) > 0 {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Answers nobody any more and gives the sockets up: the process ends, or a successor is in
    /// charge.
    pub fn close(&self) {
        {
            let mut phase = lock(&self.0.phase);
            *phase = Phase::Over;
            self.0
                .over
                .send_if_modified(|over| over.is_none() && over.replace(Over::Closed).is_none());
        }
        let settings = lock(&self.0.settings).take();
        let keeps_control = true;
        let kept = *self.0.over.borrow() == Some(Over::Succeeded { keeps_control });
        let is_ours = self.0.in_charge.load(SeqCst) && !kept;
        if let (Some(settings), true) = (settings, is_ours) {
            // Nobody connects to it in vain.
            let _ = std::fs::remove_file(&settings.socket.path);
        }
    }
}

fn polled(listener: UnixListener) -> Option<tokio::net::UnixListener> {
    listener.set_nonblocking(true).ok()?;
    tokio::net::UnixListener::from_std(listener).ok()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    /// The one before has removed the path if it was told to end before it knew of this process.
    fn restore_path(&self) {
        let mut settings = lock(&self.settings);
        let Some(settings) = settings.as_mut() else {
            return;
        };
        if settings.socket.path.exists() {
            return;
        }
        match Place::only(&settings.socket.path).bind() {
            Ok(bound) => settings.socket = bound,
            Err(error) => log::error!("upgrade: {error}: nobody will find this process"),
        }
    }

    fn talk(&self, link: &mut Link) -> io::Result<()> {
        let peer = link.peer()?;
        match link.receive(FIRST_WORD)? {
            Some((Message::Upgrade, _)) => self.upgrade(link),
            Some((Message::Take { spawned }, _)) => self.hand_over(link, spawned, peer),
            Some((Message::Alive, _)) => self.tell_life(link),
            // Somebody looked whether a gateway is there.
            _ => Ok(()),
        }
    }

    fn tell_life(&self, link: &mut Link) -> io::Result<()> {
        let settings = lock(&self.settings);
        // Without them the process ends.
        let state = settings.as_ref().map_or("draining", |s| (s.life)());
        let state = state.to_owned();
        drop(settings);
        link.send(&Message::Life { state })
    }

    /// Begins an upgrade, unless there is one already. The answer is what to say then.
    fn claim(&self, report: Option<mpsc::Sender<Result<i32, String>>>) -> Result<(), Message> {
        let mut phase = lock(&self.phase);
        match *phase {
            Phase::Alone => {
                *phase = Phase::Starting(report);
                Ok(())
            }
            Phase::Starting(_) | Phase::Beside { .. } => Err(Message::Refused {
                reason: "an upgrade is under way".to_owned(),
            }),
            Phase::Over => Err(Message::Again),
        }
    }

    /// Gives an upgrade up. False when it has come to its end meanwhile.
    fn give_up(&self) -> bool {
        let mut phase = lock(&self.phase);
        let starting = matches!(*phase, Phase::Starting(_) | Phase::Beside { .. });
        if starting {
            *phase = Phase::Alone;
        }
        starting
    }

    /// Starts a successor and says how it went.
    fn upgrade(&self, link: &mut Link) -> io::Result<()> {
        let (report, outcome) = mpsc::channel();
        if let Err(answer) = self.claim(Some(report)) {
            return link.send(&answer);
        }
        log::info!("upgrade: a successor is asked for");
        let answer = match self.start_successor(link, &outcome) {
            Ok(pid) => Message::Done { pid },
            Err(reason) => {
                self.give_up();
                log::error!("upgrade: {reason}; this process goes on");
                Message::Refused { reason }
            }
        };
        link.send(&answer)
    }

    fn start_successor(
        &self,
        link: &mut Link,
        outcome: &mpsc::Receiver<Result<i32, String>>,
    ) -> Result<i32, String> {
        let (program, socket) = match &*lock(&self.settings) {
            Some(settings) => (settings.program.clone(), settings.socket.path.clone()),
            None => return Err("the gateway is being stopped".to_owned()),
        };
        let shown = program.path().display().to_string();
        let mut child = program
            .start_successor(&socket)
            .map_err(|error| format!("{shown} cannot be started: {error}"))?;
        let text = format!("started {shown} as process {}", child.id());
        // Whoever asked may have left; the upgrade goes on without.
        let _ = link.send(&Message::Progress { text });
        let deadline = Instant::now() + self.timeout;
        loop {
            match outcome.recv_timeout(LOOK) {
                Ok(Ok(pid)) => return Ok(pid),
                Ok(Err(reason)) => {
                    // It ends by itself; a child that nobody waits for would stay as a zombie.
                    reap(&mut child);
                    return Err(format!("the successor cannot start: {reason}"));
                }
                Err(_) => {}
            }
            if let Ok(Some(status)) = child.try_wait() {
                // Its last words may still be under way.
                let words = outcome.recv_timeout(LOOK * 10);
                return match words {
                    Ok(Err(reason)) => Err(format!("the successor cannot start: {reason}")),
                    _ => Err(format!(
                        "the successor ended before it served ({status}); the process log has \
                         its messages"
                    )),
                };
            }
            let is_stopping = *self.over.borrow() == Some(Over::Closed);
            if is_stopping || (Instant::now() >= deadline && self.give_up()) {
                // An error means that it has ended.
                let _ = child.kill();
                let _ = child.wait();
                return Err(if is_stopping {
                    "the gateway is being stopped".to_owned()
                } else {
                    let seconds = self.timeout.as_secs_f32();
                    format!("the successor did not serve within {seconds}s and was ended")
                });
            }
        }
    }

    /// Hands the sockets over, waits until the successor serves, and lets it take over.
    fn hand_over(&self, link: &mut Link, spawned: bool, peer: i32) -> io::Result<()> {
        let report = if spawned {
            match &*lock(&self.phase) {
                Phase::Starting(report) => report.clone(),
                _ => None,
            }
        } else {
            None
        };
        let is_expected = spawned && report.is_some();
        if !is_expected && let Err(answer) = self.claim(None) {
            return link.send(&answer);
        }
        let outcome = self.send_sockets(link).and_then(|()| self.wait_ready(link));
        let outcome = match outcome {
            Ok(keeps_control) => self.release(link, is_expected, keeps_control, peer),
            Err(reason) => Err(reason),
        };
        if let Err(reason) = &outcome {
            if !is_expected && self.give_up() {
                log::error!("upgrade: {reason}; this process goes on");
            }
            let reason = reason.clone();
            // It may have ended already.
            let _ = link.send(&Message::Refused { reason });
        }
        if let Some(report) = report {
            if outcome.is_ok() {
                self.wait_until_left();
            }
            // Whoever asked may have given it up.
            let _ = report.send(outcome.map(|()| peer));
        }
        Ok(())
    }

    /// Whoever is told of the upgrade must not meet this process any more.
    fn wait_until_left(&self) {
        let deadline = Instant::now() + LEAVING;
        while !self.has_left.load(SeqCst) && Instant::now() < deadline {
            std::thread::sleep(LEAVING_LOOK);
        }
    }

    fn send_sockets(&self, link: &mut Link) -> Result<(), String> {
        let settings = lock(&self.settings);
        let Some(settings) = &*settings else {
            return Err("the gateway is being stopped".to_owned());
        };
        let control = Named {
            kind: Kind::Control,
            address: None,
        };
        let mut all = vec![(control, settings.socket.listener.as_fd())];
        let offers = settings.offers.iter();
        all.extend(offers.map(|offer| (offer.named.clone(), offer.socket.as_fd())));
        let mut batches = all.chunks(MAX_DESCRIPTORS).peekable();
        while let Some(batch) = batches.next() {
            let (sockets, descriptors): (Vec<_>, Vec<_>) = batch.iter().cloned().unzip();
            let message = Message::Sockets {
                sockets,
                more: batches.peek().is_some(),
                state: (settings.state)(),
            };
            link.send_with(&message, &descriptors)
                .map_err(|error| format!("the sockets could not be sent: {error}"))?;
        }
        Ok(())
    }

    /// Waits until the successor serves. Says whether it answers at the same socket.
    fn wait_ready(&self, link: &mut Link) -> Result<bool, String> {
        match link.receive(self.timeout) {
            Ok(Some((Message::Ready { keeps_control }, _))) => Ok(keeps_control),
            Ok(Some((Message::Failed { reason }, _))) => Err(reason),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let seconds = self.timeout.as_secs_f32();
                Err(format!("the successor did not serve within {seconds}s"))
            }
            Ok(_) => Err("the successor ended before it served".to_owned()),
            Err(error) => Err(format!("the successor cannot be understood: {error}")),
        }
    }

    /// Lets the successor take over: at once, or when SIGQUIT asks for it.
    fn release(
        &self,
        link: &mut Link,
        at_once: bool,
        keeps_control: bool,
        peer: i32,
    ) -> Result<(), String> {
        if !at_once {
            let mut phase = lock(&self.phase);
            if matches!(*phase, Phase::Starting(_)) {
                *phase = Phase::Beside {
                    keeps_control,
                    peer,
                };
            }
            log::info!("upgrade: process {peer} serves beside this one, which ends at SIGQUIT");
        }
        while !at_once && !self.asked.load(SeqCst) {
            match link.receive(LOOK) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                _ => return Err("the successor has ended".to_owned()),
            }
            if matches!(*lock(&self.phase), Phase::Over) {
                break;
            }
        }
        {
            let mut phase = lock(&self.phase);
            match *phase {
                Phase::Alone => return Err("it took too long".to_owned()),
                Phase::Over if at_once => return Err("it took too long".to_owned()),
                _ => self.pass_on(&mut phase, keeps_control, peer),
            }
        }
        let state = (self.last_state)();
        log::info!("upgrade: process {peer} is in charge");
        // When it cannot be told, it sees the end of this process.
        let _ = link.send(&Message::Go { state });
        Ok(())
    }

    /// Records that the successor is in charge.
    fn pass_on(&self, phase: &mut Phase, keeps_control: bool, peer: i32) {
        *phase = Phase::Over;
        // Before this process can begin to end, so that the manager knows whom to look at.
        notify::main_process(peer);
        self.over
            .send_replace(Some(Over::Succeeded { keeps_control }));
    }
}

/// Waits for the end of a child that is ending; one that is not is ended.
fn reap(child: &mut std::process::Child) {
    for _ in 0..100 {
        if matches!(child.try_wait(), Ok(Some(_)) | Err(_)) {
            return;
        }
        std::thread::sleep(LOOK);
    }
    let _ = child.kill();
    let _ = child.wait();
}

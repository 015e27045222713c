//! What is asked, apart by the server that has to answer: what one is slow to answer holds up nothing of the others.
//!
//! All that waits for a server goes out together, and several such lots are on their way to it at the same time:
//! the more is asked, the less a question costs.

use std::sync::Arc;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Semaphore, mpsc};

/// How much goes together, which occupies Redis for two milliseconds or so.
pub(super) const AT_ONCE: usize = 256;

/// How many such lots are on their way to a server.
const IN_FLIGHT: usize = 16;

/// A queue for each server.
pub(super) struct Lanes<T, W> {
    queues: Vec<mpsc::Sender<T>>,
    /// How much may wait in each.
    room: usize,
    /// Sends a lot, and hands over what is answered.
    work: W,
}

impl<T, W, F> Lanes<T, W>
where
    T: Send + 'static,
    W: Fn(Vec<T>) -> F + Clone + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    pub fn new(room: usize, work: W) -> Self {
        Self {
            queues: Vec::new(),
            room,
            work,
        }
    }

    /// Has something sent to the server of this number. It is given back where there is no room.
    pub fn put(&mut self, server: usize, one: T) -> Result<(), T> {
        while self.queues.len() <= server {
            let (queue, waiting) = mpsc::channel(self.room);
            tokio::spawn(serve(waiting, self.work.clone()));
            self.queues.push(queue);
        }
        // There are as many now.
        let put = self.queues[server].try_send(one);
        put.map_err(TrySendError::into_inner)
    }
}

/// Goes on for as long as anything may come.
async fn serve<T, W, F>(mut waiting: mpsc::Receiver<T>, work: W)
where
    W: Fn(Vec<T>) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(IN_FLIGHT));
    // The semaphore is never closed.
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        let mut some = Vec::with_capacity(AT_ONCE);
        if waiting.recv_many(&mut some, AT_ONCE).await == 0 {
            return;
        }
        let done = work(some);
        tokio::spawn(async move {
            done.await;
            drop(place);
        });
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
mod tests {
    use std::future::pending;

    use super::*;

    #[test]
    fn a_server_that_does_not_answer_holds_up_nothing_of_the_others() {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.build().unwrap().block_on(async {
            let (sender, mut sent) = mpsc::unbounded_channel();
            let mut lanes = Lanes::new(AT_ONCE, move |some: Vec<usize>| {
                let is_stuck = some.contains(&0);
                sender.send(some).unwrap();
                async move {
                    if is_stuck {
                        pending().await
                    }
                }
            });
            for _ in 0..IN_FLIGHT {
                lanes.put(1, 0).unwrap();
                assert_eq!(sent.recv().await.unwrap(), [0]);
            }
            // What waits for it goes out together, when it can.
            (0..AT_ONCE).for_each(|_| lanes.put(1, 0).unwrap());
            assert_eq!(lanes.put(1, 7), Err(7), "there is no room");
            for other in [2, 0] {
                lanes.put(other, 1).unwrap();
                lanes.put(other, 2).unwrap();
                assert_eq!(sent.recv().await.unwrap(), [1, 2]);
            }
            assert!(sent.is_empty());
        });
    }
}

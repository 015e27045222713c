//! Connections that carry several requests at once, counted as one for as long as they carry any.
//!
//! A connection and its requests stay with one worker thread, so the count needs no lock.

use std::any::Any;
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

thread_local! {
    /// Requests by the address of what stands for their connection.
    static REQUESTS: RefCell<HashMap<usize, u32>> = RefCell::default();
}

/// A request on a shared connection.
pub(super) struct SharedConnection(Arc<dyn Any + Send + Sync>);

impl SharedConnection {
    /// Joins the requests of the connection that this value stands for. Holding it keeps its address
    /// from being another connection's.
    pub(super) fn join(connection: Arc<dyn Any + Send + Sync>) -> Self {
        let joined = Self(connection);
        joined.with_count(|count| *count += 1);
        joined
    }

    /// Whether there is no other request on it.
    pub(super) fn is_alone(&self) -> bool {
        self.with_count(|count| *count == 1).unwrap_or(true)
    }

    fn with_count<T>(&self, action: impl FnOnce(&mut u32) -> T) -> Option<T> {
        let address = Arc::as_ptr(&self.0).cast::<()>() as usize;
        // The map is gone when a thread ends; nobody reads the figures then.
        let acted = REQUESTS.try_with(|requests| {
            let mut requests = requests.borrow_mut();
            let count = requests.entry(address).or_insert(0);
            let result = action(count);
            if *count == 0 {
                requests.remove(&address);
            }
            result
        });
        acted.ok()
    }
}

impl Drop for SharedConnection {
    fn drop(&mut self) {
        self.with_count(|count| *count = count.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_one_connection_know_of_each_other() {
        let (first, second) = (Arc::new(1), Arc::new(1));
        let one = SharedConnection::join(first.clone());
        let other = SharedConnection::join(second);
        assert!(one.is_alone() && other.is_alone());
        let further = SharedConnection::join(first.clone());
        assert!(!one.is_alone() && !further.is_alone() && other.is_alone());
        drop(one);
        assert!(further.is_alone());
        drop((further, other));
        REQUESTS.with(|requests| assert!(requests.borrow().is_empty()));
    }
}

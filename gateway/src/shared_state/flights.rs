//! Single flight: of those who ask for the same at the same time, one works and all have the result.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// Work under way, by what it is for.
#[derive(Debug)]
pub struct Flights<K: Eq + Hash, T> {
    running: Mutex<HashMap<K, watch::Receiver<Option<T>>>>,
}

/// How a question takes part.
#[derive(Debug)]
pub enum Turn<'a, K: Eq + Hash + Clone, T> {
    /// It does the work; others may wait for it.
    Own(Lead<'a, K, T>),
    /// Someone else's result.
    Shared(T),
    /// Someone else worked and has nothing to share: it works alone, beside all others who waited.
    Alone,
}

impl<K: Eq + Hash, T> Flights<K, T> {
    /// Whoever comes from here on does not share what is under way: it may be out of date.
    pub fn detach(&self, key: &K) {
        self.running().remove(key);
    }

    /// As [`Self::detach`], of everything.
    pub fn detach_all(&self) {
        self.running().clear();
    }
}

/// Doing the work for all. Dropped without [`Lead::share`], it shares nothing.
#[derive(Debug)]
pub struct Lead<'a, K: Eq + Hash + Clone, T> {
    flights: &'a Flights<K, T>,
    key: K,
    result: watch::Sender<Option<T>>,
}

impl<K: Eq + Hash, T> Default for Flights<K, T> {
    fn default() -> Self {
        Self { running: Mutex::default() }
    }
}

impl<K: Eq + Hash + Clone, T: Clone> Flights<K, T> {
    /// Takes the lead, or waits for whoever has it.
    pub async fn join(&self, key: &K) -> Turn<'_, K, T> {
        let mut running = {
            let mut flights = self.running();
            if let Some(running) = flights.get(key) {
                running.clone()
            } else {
                let (result, receiver) = watch::channel(None);
                flights.insert(key.clone(), receiver);
                return Turn::Own(Lead { flights: self, key: key.clone(), result });
            }
        };
        let shared = running.wait_for(Option::is_some).await;
        match shared.ok().and_then(|result| result.clone()) {
            Some(result) => Turn::Shared(result),
            None => Turn::Alone,
        }
    }

    /// Flights under way.
    #[must_use]
    pub fn len(&self) -> usize {
        self.running().len()
    }

    /// Whether nothing is under way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<K: Eq + Hash, T> Flights<K, T> {
    fn running(&self) -> MutexGuard<'_, HashMap<K, watch::Receiver<Option<T>>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash + Clone, T> Lead<'_, K, T> {
    /// Gives the result to all who wait.
    pub fn share(self, result: T) {
        self.result.send_replace(Some(result));
    }
}

impl<K: Eq + Hash + Clone, T> Drop for Lead<'_, K, T> {
    fn drop(&mut self) {
        // Before the sender goes: whoever comes now begins anew. Another's flight is left alone.
        let mut running = self.flights.running();
        let own = self.result.subscribe();
        if running.get(&self.key).is_some_and(|flight| flight.same_channel(&own)) {
            running.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;

    use super::*;

    #[tokio::test]
    async fn one_works_and_all_have_the_result() {
        let (flights, worked) = (Flights::default(), AtomicUsize::new(0));
        let ask = || async {
            match flights.join(&"a").await {
                Turn::Own(lead) => {
                    tokio::task::yield_now().await;
                    worked.fetch_add(1, Ordering::Relaxed);
                    lead.share(7);
                    7
                }
                Turn::Shared(result) => result,
                Turn::Alone => panic!("it was shared"),
            }
        };
        let asked: Vec<_> = (0..50).map(|_| ask()).collect();
        #[expect(clippy::disallowed_methods, reason = "a bounded number, in a test")]
        let results = join_all(asked).await;
        assert_eq!(results, [7; 50]);
        assert_eq!(worked.load(Ordering::Relaxed), 1);
        assert!(flights.is_empty());
    }

    #[tokio::test]
    async fn who_waited_for_nothing_goes_on_alone_and_at_once() {
        let flights: Flights<&str, u8> = Flights::default();
        let Turn::Own(lead) = flights.join(&"a").await else { panic!("nobody was before") };
        let waiting = async {
            let one = async { matches!(flights.join(&"a").await, Turn::Alone) };
            let other = async { matches!(flights.join(&"a").await, Turn::Alone) };
            tokio::join!(one, other)
        };
        let giving_up = async {
            tokio::task::yield_now().await;
            drop(lead);
        };
        let (alone, ()) = tokio::join!(waiting, giving_up);
        assert_eq!(alone, (true, true));
        assert!(matches!(flights.join(&"a").await, Turn::Own(_)));
        assert!(matches!(flights.join(&"b").await, Turn::Own(_)));
    }

    #[tokio::test]
    async fn a_detached_flight_is_shared_by_those_who_came_before() {
        let flights: Flights<&str, u8> = Flights::default();
        let Turn::Own(old) = flights.join(&"a").await else { panic!("nobody was before") };
        let before = flights.join(&"a");
        let after = async {
            flights.detach(&"a");
            let Turn::Own(new) = flights.join(&"a").await else { panic!("it is detached") };
            old.share(1);
            // The old one's end is not the new one's.
            let later = async { matches!(flights.join(&"a").await, Turn::Shared(2)) };
            let sharing = async {
                tokio::task::yield_now().await;
                new.share(2);
            };
            tokio::join!(later, sharing).0
        };
        let (before, later) = tokio::join!(before, after);
        assert!(matches!(before, Turn::Shared(1)) && later);
        assert!(flights.is_empty());
    }
}

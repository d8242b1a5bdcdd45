//! Places for connections: so many at once, so many of one address, and idle ones make room.
//!
//! Where all are taken, the connection that has been without a request for longest is hung up on, so that clients that connect and
//! say nothing cannot keep the others out. An address with as many connections as it may have loses its own longest idle one, or is
//! not let in while all of them are at work.

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures_util::task::AtomicWaker;
use tokio::{sync::Notify, time::timeout};

use super::listener::Turns;

/// Wait for a connection that was told to leave, before another one is told.
const PATIENCE: Duration = Duration::from_millis(100);

/// The places of a listener.
#[derive(Debug, Clone)]
pub struct Places {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    taken: Mutex<Vec<Arc<Taken>>>,
    freed: Notify,
    started: Instant,
    most: usize,
    most_of_one: usize,
}

/// A connection that has a place.
#[derive(Debug)]
struct Taken {
    peer: IpAddr,
    turns: Turns,
    /// Milliseconds from the start to when it began to rest, or a request began to come.
    since: AtomicU64,
    leaving: AtomicBool,
    waker: AtomicWaker,
}

/// A connection's place; given back when dropped.
#[derive(Debug)]
pub struct Place {
    shared: Arc<Shared>,
    held: Arc<Taken>,
}

impl Places {
    /// Makes `most` places, of which one address may have `most_of_one`; at least one of each.
    pub fn new(most: usize, most_of_one: usize) -> Self {
        let (most, most_of_one) = (most.max(1), most_of_one.max(1));
        let (taken, freed, started) = (Mutex::default(), Notify::new(), Instant::now());
        Self { shared: Arc::new(Shared { taken, freed, started, most, most_of_one }) }
    }

    /// Takes a place, waiting for one if need be; `None` where the address has too many at work.
    pub async fn take(&self, peer: IpAddr) -> Option<Place> {
        let shared = &self.shared;
        loop {
            let freed = shared.freed.notified();
            {
                let mut taken = shared.lock();
                let own = taken.iter().filter(|held| held.peer == peer).count();
                if own >= shared.most_of_one && !shared.hang_up(&taken, |held| held.peer == peer) {
                    return None;
                }
                if own < shared.most_of_one {
                    if taken.len() < shared.most {
                        let held = Arc::new(Taken::new(peer, shared.now()));
                        taken.push(Arc::clone(&held));
                        return Some(Place { shared: Arc::clone(shared), held });
                    }
                    shared.hang_up(&taken, |_| true);
                }
            }
            // It may have got a request just then: the next round finds another.
            drop(timeout(PATIENCE, freed).await);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Taken>>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Tells the longest idle connection of some to leave, if there is one.
    fn hang_up(&self, taken: &[Arc<Taken>], of: impl Fn(&Taken) -> bool) -> bool {
        let idle = taken.iter().filter(|held| of(held) && !held.turns.under_way());
        let longest = idle.min_by_key(|held| {
            let told = held.leaving.load(Ordering::Relaxed);
            (told, held.since.load(Ordering::Relaxed))
        });
        if let Some(held) = longest {
            held.leaving.store(true, Ordering::Release);
            held.waker.wake();
        }
        longest.is_some()
    }
}

impl Taken {
    fn new(peer: IpAddr, since: u64) -> Self {
        let (turns, leaving, waker) = (Turns::default(), AtomicBool::new(false), AtomicWaker::new());
        Self { peer, turns, since: since.into(), leaving, waker }
    }
}

impl Place {
    /// The requests of the connection.
    pub fn turns(&self) -> &Turns {
        &self.held.turns
    }

    /// Notes that the connection begins to rest, or that a request begins to come.
    pub fn mark(&self) {
        self.held.since.store(self.shared.now(), Ordering::Relaxed);
    }

    /// Ready when the connection has to leave.
    pub fn poll_leave(&self, context: &mut Context<'_>) -> Poll<()> {
        self.held.waker.register(context.waker());
        match self.held.leaving.load(Ordering::Acquire) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.lock().retain(|held| !Arc::ptr_eq(held, &self.held));
        self.shared.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));
    const SOON: Duration = Duration::from_millis(20);

    /// Holds a place until it is told to leave.
    fn hold(place: Place) -> tokio::task::JoinHandle<()> {
        tokio::spawn(async move { poll_fn(|context| place.poll_leave(context)).await })
    }

    #[tokio::test]
    async fn the_longest_idle_makes_room() {
        let places = Places::new(2, 2);
        let (old, young) = (places.take(A).await.unwrap(), places.take(A).await.unwrap());
        tokio::time::sleep(Duration::from_millis(3)).await;
        young.mark();
        let (old, young) = (hold(old), hold(young));
        let new = places.take(B).await.unwrap();
        timeout(SOON, old).await.expect("the old one leaves").unwrap();
        assert!(!young.is_finished());
        drop(new);
    }

    #[tokio::test]
    async fn who_is_at_work_stays() {
        let places = Places::new(1, 1);
        let place = places.take(A).await.unwrap();
        let turn = place.turns().begin();
        let held = hold(place);
        assert!(timeout(3 * SOON, places.take(B)).await.is_err(), "all are at work");
        assert!(
            timeout(SOON, places.take(A)).await.unwrap().is_none(),
            "so is all that this address may have"
        );
        drop(turn);
        timeout(Duration::from_secs(5), places.take(B)).await.expect("it rests now").unwrap();
        held.await.unwrap();
    }

    #[tokio::test]
    async fn one_address_does_not_take_all_places() {
        let places = Places::new(4, 2);
        let held = [places.take(A).await.unwrap(), places.take(A).await.unwrap()].map(hold);
        let other = places.take(B).await.unwrap();
        let third = timeout(Duration::from_secs(5), places.take(A)).await.unwrap().unwrap();
        tokio::time::sleep(SOON).await;
        assert_eq!(held.iter().filter(|held| held.is_finished()).count(), 1, "one of its own has left");
        drop((other, third));
    }
}

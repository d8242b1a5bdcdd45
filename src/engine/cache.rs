//! Results by what they are of, and those that are being computed: nothing is computed twice that is asked for twice.
//!
//! A result is kept under a digest of the model, of what was wanted and of the tokens. It is given as it was computed, to the
//! last bit; what was not used for longest goes first. Who asks for what is being computed waits along, and so does who asks for
//! what waits in its own line: in another client's it would have that one's turn. It is computed as long as any of them still
//! waits. Results are shared between clients, so that how fast an answer
//! comes tells whether somebody asked before.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use super::{
    queue::{Fate, Key, Work},
    reply::{Reply, Waiter, Way, known, told},
    terms::{Client, Priority, Terms},
};
use crate::{Error, Result, score::Want, telemetry::metrics::Metrics, text::TokenSeq};
use sha2::{Digest, Sha256};

/// What a result is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sum([u8; 32]);

impl Sum {
    /// Digests everything that a result depends on; a generation does not change.
    pub fn of(key: Key, sequence: &TokenSeq) -> Self {
        let work: u8 = match key.work {
            Work::Estimates(Want::Mean) => 0,
            Work::Estimates(Want::MeanAndVariance) => 1,
            Work::Embeddings => 2,
            Work::Selections => 3,
        };
        let mut digest = Sha256::new();
        digest.update(key.model.to_le_bytes());
        digest.update([work]);
        digest.update((sequence.pooled as u64).to_le_bytes());
        sequence.ids.iter().for_each(|id| digest.update(id.to_le_bytes()));
        Self(digest.finalize().into())
    }
}

/// A computation that is waited for, in whose line.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Flight {
    pub sum: Sum,
    pub priority: Priority,
    pub client: Client,
}

/// Results, and those who wait for one.
#[derive(Debug)]
pub struct Cache<T> {
    state: Mutex<State<T>>,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct State<T> {
    kept: Kept<T>,
    under_way: HashMap<Flight, Vec<Waiter<T>>>,
    /// Those that are being computed, by what they are of.
    begun: HashMap<Sum, Flight>,
}

impl<T: Clone> Cache<T> {
    /// Makes an empty cache of so many bytes.
    pub fn new(bytes: usize, metrics: Arc<Metrics>) -> Self {
        let state = State { kept: Kept::new(bytes), under_way: HashMap::new(), begun: HashMap::new() };
        Self { state: Mutex::new(state), metrics }
    }

    /// Finds the way to a result.
    pub fn ask(self: &Arc<Self>, flight: Flight, terms: &Terms) -> Way<T> {
        let mut state = self.lock();
        if let Some(result) = state.kept.get(flight.sum) {
            self.metrics.cache_hits.inc();
            return (None, known(result));
        }
        let (mut waiter, answer) = Waiter::new(terms);
        let begun = state.begun.get(&flight.sum).cloned();
        begun.iter().for_each(|_| waiter.begin());
        let flight = begun.unwrap_or(flight);
        let waiters = state.under_way.entry(flight.clone()).or_default();
        let is_first = waiters.is_empty();
        waiters.push(waiter);
        let counter = if is_first { &self.metrics.cache_misses } else { &self.metrics.cache_joins };
        counter.inc();
        (is_first.then(|| Reply::Shared(Arc::clone(self), flight)), answer)
    }

    /// Whether anybody still waits for it. If not, those who are late are told, and nobody can join them any more.
    pub fn fate(&self, flight: &Flight, now: Instant) -> Fate {
        let mut state = self.lock();
        let fates = state.under_way.get(flight).into_iter().flatten().map(|waiter| waiter.fate(now));
        let fate = fates.min().unwrap_or(Fate::Gone);
        if fate != Fate::Live {
            let waiters = state.under_way.remove(flight).unwrap_or_default();
            waiters.into_iter().for_each(|waiter| waiter.answer(Err(Error::Deadline)));
        }
        fate
    }

    /// Tells all who wait by now that it is being computed.
    pub fn begin(&self, flight: &Flight) {
        let mut state = self.lock();
        if let Some(waiters) = state.under_way.get_mut(flight) {
            waiters.iter_mut().for_each(Waiter::begin);
            state.begun.entry(flight.sum).or_insert_with(|| flight.clone());
        }
    }

    /// Tells all who wait, and keeps what can be told again.
    pub fn answer(&self, flight: &Flight, result: Result<T>) {
        let mut state = self.lock();
        if let Ok(result) = &result {
            state.kept.put(flight.sum, result.clone());
            self.metrics.cache_bytes.set(i64::try_from(state.kept.bytes()).unwrap_or(i64::MAX));
        }
        if state.begun.get(&flight.sum) == Some(flight) {
            state.begun.remove(&flight.sum);
        }
        let waiters = state.under_way.remove(flight).unwrap_or_default();
        drop(state);
        for waiter in waiters {
            waiter.answer(result.as_ref().map_err(told).cloned());
        }
    }

    /// The state is whole between any two methods.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As many results as their bytes allow; the one that was not used for longest goes first.
#[derive(Debug)]
struct Kept<T> {
    most: usize,
    results: HashMap<Sum, (T, u64)>,
    /// By when they were last used, in uses.
    order: BTreeMap<u64, Sum>,
    uses: u64,
}

impl<T: Clone> Kept<T> {
    /// What a result takes in both maps, and half of that again for the room that they keep free.
    const COST: usize = 3 * (size_of::<(Sum, T, u64)>() + size_of::<(u64, Sum)>()) / 2;

    fn new(bytes: usize) -> Self {
        let (results, order) = (HashMap::new(), BTreeMap::new());
        Self { most: bytes / Self::COST, results, order, uses: 0 }
    }

    fn bytes(&self) -> usize {
        self.results.len() * Self::COST
    }

    fn get(&mut self, sum: Sum) -> Option<T> {
        let (result, used) = self.results.get_mut(&sum)?;
        self.uses += 1;
        self.order.remove(used);
        *used = self.uses;
        self.order.insert(self.uses, sum);
        Some(result.clone())
    }

    fn put(&mut self, sum: Sum, result: T) {
        self.uses += 1;
        if let Some((_, used)) = self.results.insert(sum, (result, self.uses)) {
            self.order.remove(&used);
        }
        self.order.insert(self.uses, sum);
        while self.results.len() > self.most {
            let Some((_, oldest)) = self.order.pop_first() else { return };
            self.results.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use tokio::sync::oneshot::Receiver;

    use super::*;
    use crate::engine::terms::Client;

    const FLIGHT: Flight = Flight { sum: Sum([1; 32]), priority: Priority::Normal, client: Client(None) };

    fn cache(results: usize) -> Arc<Cache<u32>> {
        Arc::new(Cache::new(results * Kept::<u32>::COST, Arc::new(Metrics::new().unwrap())))
    }

    fn later(seconds: u64) -> Terms {
        Terms::new(Duration::from_secs(seconds), Client::default(), Priority::Normal)
    }

    fn got<T>(mut answer: Receiver<Result<T>>) -> Option<T> {
        answer.try_recv().ok()?.ok()
    }

    #[test]
    fn results_are_of_model_work_and_tokens() {
        let key = |model, work| Key { model, work };
        let sequence = |ids: &[u32], pooled| TokenSeq { ids: ids.to_vec(), pooled, truncated: false };
        let means = key(0, Work::Estimates(Want::Mean));
        let sums = [
            Sum::of(means, &sequence(&[1, 2], 1)),
            Sum::of(means, &sequence(&[1, 2], 0)),
            Sum::of(means, &sequence(&[1, 3], 1)),
            Sum::of(key(1, means.work), &sequence(&[1, 2], 1)),
            Sum::of(key(0, Work::Estimates(Want::MeanAndVariance)), &sequence(&[1, 2], 1)),
        ];
        for (i, sum) in sums.iter().enumerate() {
            assert_eq!(sums.iter().position(|other| other == sum), Some(i));
        }
        let cut = TokenSeq { truncated: true, ..sequence(&[1, 2], 1) };
        assert_eq!(Sum::of(means, &cut), sums[0], "how the tokens came about does not matter");
    }

    #[test]
    fn the_second_waits_for_the_first_and_the_third_knows() {
        let cache = cache(1);
        let (first, one) = cache.ask(FLIGHT, &later(60));
        let (second, two) = cache.ask(FLIGHT, &later(60));
        assert!(first.is_some() && second.is_none());
        cache.answer(&FLIGHT, Ok(7));
        assert_eq!((got(one), got(two)), (Some(7), Some(7)));
        let (third, three) = cache.ask(FLIGHT, &later(60));
        assert!(third.is_none());
        assert_eq!(got(three), Some(7));
        let metrics = &cache.metrics;
        let counts = [&metrics.cache_misses, &metrics.cache_joins, &metrics.cache_hits].map(|of| of.get());
        assert_eq!(counts, [1, 1, 1]);
        assert_eq!(metrics.cache_bytes.get(), Kept::<u32>::COST as i64);
    }

    #[test]
    fn a_failure_is_told_to_all_and_not_kept() {
        let cache = cache(1);
        let (_, mut one) = cache.ask(FLIGHT, &later(60));
        let (_, mut two) = cache.ask(FLIGHT, &later(60));
        cache.answer(&FLIGHT, Err(Error::NotFinite("it".into())));
        for answer in [&mut one, &mut two] {
            assert!(matches!(answer.try_recv(), Ok(Err(Error::NotFinite(_)))));
        }
        assert!(cache.ask(FLIGHT, &later(60)).0.is_some());
    }

    #[test]
    fn it_is_computed_while_anybody_waits() {
        let (cache, now) = (cache(1), Instant::now());
        let (_, mut late) = cache.ask(FLIGHT, &Terms { deadline: now, ..later(0) });
        assert_eq!(cache.fate(&FLIGHT, now), Fate::Late);
        assert!(matches!(late.try_recv(), Ok(Err(Error::Deadline))));
        let (_, one) = cache.ask(FLIGHT, &Terms { deadline: now, ..later(0) });
        let (_, two) = cache.ask(FLIGHT, &later(60));
        assert_eq!(cache.fate(&FLIGHT, now), Fate::Live);
        drop(one);
        assert_eq!(cache.fate(&FLIGHT, now), Fate::Live, "the first has gone, the second has not");
        drop(two);
        assert_eq!(cache.fate(&FLIGHT, now), Fate::Gone);
        assert!(cache.ask(FLIGHT, &later(60)).0.is_some(), "what is dead is computed again");
    }

    #[test]
    fn the_urgent_do_not_wait_for_others() {
        let cache = cache(1);
        assert!(cache.ask(FLIGHT, &later(60)).0.is_some());
        assert!(cache.ask(Flight { priority: Priority::High, ..FLIGHT }, &later(60)).0.is_some());
    }

    #[test]
    fn nobody_waits_in_anothers_line() {
        let other = Flight { client: Client(Some("other".into())), ..FLIGHT };
        let cache = cache(1);
        let (_, one) = cache.ask(FLIGHT, &later(60));
        let (own, two) = cache.ask(other.clone(), &later(60));
        assert!(own.is_some());
        // What is being computed is nobody's line any more.
        cache.begin(&other);
        let third = Flight { client: Client(Some("third".into())), ..FLIGHT };
        let (none, three) = cache.ask(third, &later(60));
        assert!(none.is_none());
        cache.answer(&other, Ok(7));
        assert_eq!((got(two), got(three)), (Some(7), Some(7)));
        cache.answer(&FLIGHT, Ok(7));
        assert_eq!(got(one), Some(7));
        let state = cache.lock();
        assert!(state.under_way.is_empty() && state.begun.is_empty());
    }

    #[test]
    fn a_cache_of_no_bytes_keeps_nothing() {
        let cache = cache(0);
        cache.answer(&FLIGHT, Ok(7));
        assert!(cache.ask(FLIGHT, &later(60)).0.is_some());
        assert_eq!(cache.metrics.cache_bytes.get(), 0);
    }

    proptest! {
        #[test]
        fn what_was_used_last_is_kept(uses in prop::collection::vec((0u8..8, any::<bool>()), 1..60), most in 1usize..6) {
            let mut kept = Kept::new(most * Kept::<u8>::COST);
            // The oldest first.
            let mut model: Vec<u8> = Vec::new();
            for (name, put) in uses {
                let known = model.contains(&name);
                model.retain(|other| *other != name);
                if put {
                    kept.put(Sum([name; 32]), name);
                } else {
                    prop_assert_eq!(kept.get(Sum([name; 32])), known.then_some(name));
                }
                if put || known {
                    model.push(name);
                }
                model.drain(..model.len().saturating_sub(most));
                prop_assert_eq!(kept.results.len(), model.len());
                prop_assert_eq!(kept.order.values().map(|sum| sum.0[0]).collect::<Vec<_>>(), model.clone());
            }
        }
    }
}

//! What waits for the model: a bounded queue that hands out batches by token budget.
//!
//! A plain struct without a runtime, a lock or a clock: the caller says what time it is and whose client
//! has gone. Everything that is admitted counts against the bounds, from the reservation that precedes
//! tokenising until the worker takes it. A batch starts with the oldest entry and takes, in order of age,
//! whatever has the same key and still fits the budget, what
//! it shares with its neighbour not counted; an entry larger than the budget runs alone. The
//! oldest live entry is in every next batch, so nothing starves.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::pace::Pace;
use crate::score::Want;

/// Tokens and items, as counts of what waits or as bounds on it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Tokens of all items.
    pub tokens: usize,
    /// Sequences, each one item of a request.
    pub items: usize,
}

impl Load {
    fn plus(self, other: Self) -> Self {
        Self {
            tokens: self.tokens.saturating_add(other.tokens),
            items: self.items.saturating_add(other.items),
        }
    }

    fn minus(self, other: Self) -> Self {
        Self {
            tokens: self.tokens.saturating_sub(other.tokens),
            items: self.items.saturating_sub(other.items),
        }
    }

    fn within(self, bounds: Self) -> bool {
        self.tokens <= bounds.tokens && self.items <= bounds.items
    }
}

/// What the entries of one batch have in common. Means and variances are not mixed: a mean would wait for, and pay
/// for, a backward that it does not need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// Index of the model in the registry.
    pub model: usize,
    /// What is computed.
    pub work: Work,
}

/// What is computed of the entries of one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Work {
    /// Of each sequence its estimate.
    Estimates(Want),
    /// Of each sequence the vector that says how its reward varies with others.
    Embeddings,
    /// Of each entry's sequences the best.
    Selections,
}

/// What waits together: one sequence, or the candidates of one selection; `payload` is that and the way back to its client.
#[derive(Debug)]
pub struct Entry<T> {
    /// What it must share with the others of its batch.
    pub key: Key,
    /// How many sequences it has.
    pub items: usize,
    /// Tokens of the sequences.
    pub tokens: usize,
    /// Those of them that it does not share with the entry before it; all, where the two are not of one request.
    pub own: usize,
    /// The entry is dropped once this has passed.
    pub deadline: Instant,
    /// The sequence and the way back, in the engine.
    pub payload: T,
}

/// What [`Queue::next_batch`] took out.
#[derive(Debug)]
pub struct Batch<T> {
    /// Entries of one key, oldest first; empty only if nothing live waits.
    pub entries: Vec<Entry<T>>,
    /// Entries whose client has gone.
    pub gone: Vec<Entry<T>>,
    /// Entries whose deadline has passed.
    pub late: Vec<Entry<T>>,
}

/// Entries in order of arrival, and what has been promised to requests that are still being tokenised.
#[derive(Debug)]
pub struct Queue<T> {
    bounds: Load,
    batch_tokens: usize,
    load: Load,
    waiting: VecDeque<Entry<T>>,
}

impl<T> Queue<T> {
    /// Makes an empty queue that admits up to `bounds` and hands out batches of up to `batch_tokens`.
    pub fn new(bounds: Load, batch_tokens: usize) -> Self {
        Self { bounds, batch_tokens, load: Load::default(), waiting: VecDeque::new() }
    }

    /// Returns what counts against the bounds.
    pub fn load(&self) -> Load {
        self.load
    }

    /// Returns whether nothing waits for the worker.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Admits a request whole, or tells by how much it is too large; an empty queue admits one of any size.
    pub fn reserve(&mut self, wanted: Load) -> Result<(), Load> {
        let load = self.load.plus(wanted);
        if self.load != Load::default() && !load.within(self.bounds) {
            return Err(load.minus(self.bounds));
        }
        self.load = load;
        Ok(())
    }

    /// How long something that is put into the queue now waits for what is there; what is not tokenised yet is taken to be of
    /// the same kind.
    pub fn wait(&self, work: Work, pace: &Pace) -> Duration {
        let promised = self.load.minus(load_of(&self.waiting));
        self.waiting.iter().fold(pace.of(work, promised.tokens), |wait, entry| {
            wait.saturating_add(pace.of(entry.key.work, entry.tokens))
        })
    }

    /// Gives a reservation back.
    pub fn release(&mut self, reserved: Load) {
        self.load = self.load.minus(reserved);
    }

    /// Turns a reservation into entries. Their true size counts from here on, even past the bounds: what
    /// was admitted is not refused afterwards.
    pub fn fill(&mut self, reserved: Load, entries: Vec<Entry<T>>) {
        self.release(reserved);
        self.load = self.load.plus(load_of(&entries));
        self.waiting.extend(entries);
    }

    /// Takes the next batch, and every entry that is dead by `now` or by `gone`.
    pub fn next_batch(&mut self, now: Instant, gone: impl Fn(&T) -> bool) -> Batch<T> {
        let mut batch = Batch { entries: Vec::new(), gone: Vec::new(), late: Vec::new() };
        let mut left = VecDeque::with_capacity(self.waiting.len());
        let mut room = self.batch_tokens;
        let mut taken = false;
        for entry in self.waiting.drain(..) {
            // Candidates of one prompt are neighbours, and the model computes what they share once.
            let cost = if std::mem::take(&mut taken) { entry.own } else { entry.tokens };
            let key = batch.entries.first().map(|first: &Entry<T>| first.key);
            if gone(&entry.payload) {
                batch.gone.push(entry);
            } else if entry.deadline <= now {
                batch.late.push(entry);
            } else if key.is_none() || key == Some(entry.key) && cost <= room {
                room = room.saturating_sub(cost);
                taken = true;
                batch.entries.push(entry);
            } else {
                left.push_back(entry);
            }
        }
        self.waiting = left;
        for taken in [&batch.entries, &batch.gone, &batch.late] {
            self.load = self.load.minus(load_of(taken));
        }
        batch
    }
}

fn load_of<'a, T: 'a>(entries: impl IntoIterator<Item = &'a Entry<T>>) -> Load {
    let add = |load: Load, entry: &Entry<T>| load.plus(Load { tokens: entry.tokens, items: entry.items });
    entries.into_iter().fold(Load::default(), add)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WIDE: Load = Load { tokens: usize::MAX, items: usize::MAX };

    fn key(model: usize, want: Want) -> Key {
        Key { model, work: Work::Estimates(want) }
    }

    /// Entries of one request whose payloads number them from `first`.
    fn push(queue: &mut Queue<usize>, first: usize, key: Key, tokens: &[usize]) -> Result<(), Load> {
        let deadline = Instant::now() + Duration::from_secs(3600);
        let entries: Vec<_> = (first..)
            .zip(tokens)
            .map(|(payload, tokens)| Entry {
                key,
                items: 1,
                tokens: *tokens,
                own: *tokens,
                deadline,
                payload,
            })
            .collect();
        let load = load_of(&entries);
        queue.reserve(load)?;
        queue.fill(load, entries);
        Ok(())
    }

    fn payloads<T: Copy>(entries: &[Entry<T>]) -> Vec<T> {
        entries.iter().map(|entry| entry.payload).collect()
    }

    fn take(queue: &mut Queue<usize>) -> Vec<usize> {
        payloads(&queue.next_batch(Instant::now(), |_| false).entries)
    }

    #[test]
    fn batches_take_the_oldest_first_within_the_budget() {
        let (mean, variance) = (key(0, Want::Mean), key(0, Want::MeanAndVariance));
        let mut queue = Queue::new(WIDE, 10);
        push(&mut queue, 0, mean, &[4, 5]).unwrap();
        push(&mut queue, 2, variance, &[3]).unwrap();
        push(&mut queue, 3, key(1, Want::Mean), &[3]).unwrap();
        push(&mut queue, 4, mean, &[2, 1, 40, 10]).unwrap();
        // 4 + 5, then 2 does not fit but 1 does; another key, another model; what is too large goes alone.
        for want in [vec![0, 1, 5], vec![2], vec![3], vec![4], vec![6], vec![7], vec![]] {
            assert_eq!(take(&mut queue), want);
        }
        assert_eq!(queue.load(), Load::default());
    }

    #[test]
    fn what_neighbours_share_costs_once() {
        let mut queue = Queue::new(WIDE, 12);
        push(&mut queue, 0, key(0, Want::Mean), &[9, 9, 9, 9]).unwrap();
        queue.waiting.iter_mut().skip(1).for_each(|entry| entry.own = 1);
        assert_eq!(take(&mut queue), [0, 1, 2, 3]);
        push(&mut queue, 0, key(0, Want::Mean), &[9, 13, 9]).unwrap();
        queue.waiting[2].own = 1;
        // What does not fit leaves nothing to share.
        assert_eq!(take(&mut queue), [0]);
    }

    #[test]
    fn a_full_queue_admits_all_or_nothing() {
        let mut queue = Queue::new(Load { tokens: 10, items: 3 }, 10);
        let mean = key(0, Want::Mean);
        push(&mut queue, 0, mean, &[6]).unwrap();
        assert!(push(&mut queue, 1, mean, &[2, 3]) == Err(Load { tokens: 1, items: 0 }));
        assert_eq!(queue.load(), Load { tokens: 6, items: 1 });
        push(&mut queue, 1, mean, &[2, 2]).unwrap();
        assert!(
            push(&mut queue, 3, mean, &[0]) == Err(Load { tokens: 0, items: 1 }),
            "items are bounded too"
        );
        assert_eq!(take(&mut queue), [0, 1, 2]);
        push(&mut queue, 3, mean, &[50, 1, 1, 1]).unwrap();
        assert_eq!(queue.load().tokens, 53, "an empty queue admits a request of any size");
    }

    #[test]
    fn a_reservation_counts_until_it_is_released_or_filled() {
        let mut queue: Queue<usize> = Queue::new(Load { tokens: 10, items: 9 }, 10);
        let reserved = Load { tokens: 8, items: 1 };
        queue.reserve(reserved).unwrap();
        assert!(queue.reserve(reserved).is_err());
        queue.release(reserved);
        queue.reserve(reserved).unwrap();
        let deadline = Instant::now();
        queue.fill(
            reserved,
            vec![Entry { key: key(0, Want::Mean), items: 3, tokens: 12, own: 12, deadline, payload: 0 }],
        );
        assert_eq!(queue.load(), Load { tokens: 12, items: 3 });
    }

    #[test]
    fn what_waits_takes_its_time() {
        let (mut queue, mut pace, now) = (Queue::new(WIDE, 10), Pace::default(), Instant::now());
        let (mean, variance) = (key(0, Want::Mean), key(0, Want::MeanAndVariance));
        for (key, seconds) in [(mean, 1), (variance, 2)] {
            pace.begin(key.work, 10, now);
            pace.end(now + Duration::from_secs(seconds));
        }
        push(&mut queue, 0, mean, &[20]).unwrap();
        push(&mut queue, 1, variance, &[10]).unwrap();
        queue.reserve(Load { tokens: 5, items: 1 }).unwrap();
        assert_eq!(queue.wait(mean.work, &pace), Duration::from_millis(4500));
        assert_eq!(queue.wait(variance.work, &pace), Duration::from_millis(5000));
    }

    #[test]
    fn the_dead_are_dropped_and_cost_no_budget() {
        let now = Instant::now();
        let mut queue = Queue::new(WIDE, 10);
        push(&mut queue, 0, key(0, Want::Mean), &[10, 10, 9]).unwrap();
        queue.waiting[1].deadline = now;
        let batch = queue.next_batch(now, |payload| *payload == 0);
        assert_eq!((payloads(&batch.gone), payloads(&batch.late)), (vec![0], vec![1]));
        assert_eq!(payloads(&batch.entries), [2]);
        assert_eq!((queue.load(), queue.is_empty()), (Load::default(), true));
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_the_oldest_is_always_next(
            sizes in prop::collection::vec((1usize..30, 0usize..2, any::<bool>()), 1..40), budget in 1usize..60,
        ) {
            let mut queue = Queue::new(WIDE, budget);
            let keys: Vec<_> = sizes
                .iter()
                .map(|(_, model, mean)| key(*model, if *mean { Want::Mean } else { Want::MeanAndVariance }))
                .collect();
            for (at, (tokens, ..)) in sizes.iter().enumerate() {
                push(&mut queue, at, keys[at], &[*tokens]).unwrap();
            }
            let mut left: Vec<usize> = (0..sizes.len()).collect();
            while !queue.is_empty() {
                let batch = take(&mut queue);
                prop_assert_eq!(batch.first(), left.first());
                prop_assert!(batch.is_sorted());
                prop_assert!(batch.iter().all(|at| keys[*at] == keys[batch[0]]));
                let tokens: usize = batch.iter().map(|at| sizes[*at].0).sum();
                prop_assert!(tokens <= budget || batch.len() == 1);
                left.retain(|at| !batch.contains(at));
            }
            prop_assert!(left.is_empty());
            prop_assert_eq!(queue.load(), Load::default());
        }
    }
}

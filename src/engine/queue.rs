//! What waits for the model: a bounded queue that hands out batches by token budget.
//!
//! A plain struct without a runtime, a lock or a clock: the caller says what time it is and whose client
//! has gone. Everything that is admitted counts against the bounds, from the reservation that precedes
//! tokenising until the worker takes it (`shares.rs`), and what counts is never above them. A batch starts with the entry whose turn it is (`fair.rs`) and takes
//! whatever has the same key and still fits the budget, what it shares with its neighbour not counted; an entry larger
//! than the budget runs alone.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::{
    fair::{Lines, Whose},
    pace::Pace,
    shares::Shares,
    terms::{Client, Priority},
};
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
    pub fn plus(self, other: Self) -> Self {
        Self {
            tokens: self.tokens.saturating_add(other.tokens),
            items: self.items.saturating_add(other.items),
        }
    }

    pub fn minus(self, other: Self) -> Self {
        Self {
            tokens: self.tokens.saturating_sub(other.tokens),
            items: self.items.saturating_sub(other.items),
        }
    }

    pub fn min(self, other: Self) -> Self {
        Self { tokens: self.tokens.min(other.tokens), items: self.items.min(other.items) }
    }

    pub fn max(self, other: Self) -> Self {
        Self { tokens: self.tokens.max(other.tokens), items: self.items.max(other.items) }
    }

    pub fn times(self, factor: usize) -> Self {
        Self { tokens: self.tokens.saturating_mul(factor), items: self.items.saturating_mul(factor) }
    }
}

/// What the entries of one batch have in common. Means and variances are not mixed: a mean would wait for, and pay
/// for, a backward that it does not need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// Number of the model's generation.
    pub model: u64,
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
    /// Whose it is.
    pub client: Client,
    /// Before whose it comes.
    pub priority: Priority,
    /// When it was put into the queue.
    pub since: Instant,
    /// How many sequences it has.
    pub items: usize,
    /// Tokens of the sequences.
    pub tokens: usize,
    /// Those of them that it does not share with the entry before it; all, where the two are not of one request.
    pub own: usize,
    /// What it counts against the bounds; [`Queue::fill`] settles it.
    pub counted: Load,
    /// The sequence and the way back, in the engine.
    pub payload: T,
}

/// Whether somebody waits for an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// Somebody does.
    Live,
    /// Its deadline has passed.
    Late,
    /// Its client has gone.
    Gone,
}

/// What [`Queue::next_batch`] took out.
#[derive(Debug)]
pub struct Batch<T> {
    /// Entries of one key; empty only if nothing live waits.
    pub entries: Vec<Entry<T>>,
    /// Entries whose client has gone.
    pub gone: Vec<Entry<T>>,
    /// Entries whose deadline has passed.
    pub late: Vec<Entry<T>>,
}

/// Entries in their lines, and what has been promised to requests that are still being tokenised.
#[derive(Debug)]
pub struct Queue<T> {
    batch_tokens: usize,
    shares: Shares,
    /// The part of that which is still being tokenised, and what is asked of it.
    promised: Vec<(Whose, Load)>,
    lines: Lines<T>,
}

impl<T> Queue<T> {
    /// Makes an empty queue that admits up to `bounds` and hands out batches of up to `batch_tokens`.
    pub fn new(bounds: Load, batch_tokens: usize) -> Self {
        Self { batch_tokens, shares: Shares::new(bounds), promised: Vec::new(), lines: Lines::new() }
    }

    /// Returns what counts against the bounds.
    pub fn load(&self) -> Load {
        self.shares.taken()
    }

    /// Returns whether nothing waits for the worker.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Admits a request whole, and tells what it counts; or tells by how much it is too large.
    pub fn reserve(&mut self, whose: &Whose, wanted: Load) -> Result<Load, Load> {
        let counted = self.shares.take(&whose.client, wanted)?;
        self.promised.push((whose.clone(), counted));
        Ok(counted)
    }

    /// Gives a reservation back.
    pub fn release(&mut self, whose: &Whose, reserved: Load) {
        let is = |(other, load): &(Whose, Load)| other == whose && *load == reserved;
        if let Some(at) = self.promised.iter().position(is) {
            self.promised.swap_remove(at);
            self.shares.give_back(&whose.client, reserved);
        }
    }

    /// How long something of so many tokens waits if it joins a line now. What its own line has is before it; of every other
    /// that is as urgent, no more than its own line has then, since their turns are equal. What is not tokenised yet is taken
    /// to be of the same kind, and to stand in its line.
    pub fn wait(&self, whose: &Whose, work: Work, tokens: usize, pace: &Pace) -> Duration {
        let mut times: HashMap<&Whose, Duration> = HashMap::new();
        let lines = self.lines.iter().flat_map(|line| {
            line.entries().map(|entry| (&line.whose, pace.of(entry.key.work, entry.tokens)))
        });
        let promised = self.promised.iter().map(|(whose, load)| (whose, pace.of(work, load.tokens)));
        for (whose, time) in lines.chain(promised) {
            let sum = times.entry(whose).or_default();
            *sum = sum.saturating_add(time);
        }
        let own = times.remove(whose).unwrap_or_default();
        let turn = own.saturating_add(pace.of(work, tokens));
        let before = |(other, time): (&Whose, Duration)| match other.priority == whose.priority {
            true => turn.min(time),
            false => time,
        };
        let others = times.into_iter().filter(|(other, _)| other.priority <= whose.priority);
        others.map(before).fold(own, Duration::saturating_add)
    }

    /// Turns a reservation into entries. Their true size counts from here on, as far as there is room: what was admitted is not
    /// refused afterwards.
    pub fn fill(&mut self, whose: &Whose, reserved: Load, entries: Vec<Entry<T>>) {
        self.release(whose, reserved);
        for mut entry in entries {
            let is = Load { tokens: entry.tokens, items: entry.items };
            entry.counted = is.min(self.shares.free());
            self.shares.add(&entry.client, entry.counted);
            self.lines.push(entry);
        }
    }

    /// Takes the next batch, and every entry that is dead.
    pub fn next_batch(&mut self, now: Instant, fate: impl FnMut(&T) -> Fate) -> Batch<T> {
        let (gone, late) = self.lines.dead(fate);
        let mut entries = Vec::new();
        if let Some((leader, mut beside)) = self.lines.leader(self.batch_tokens, now) {
            entries.push(leader);
            while let Some(entry) = self.lines.next(&mut beside, now) {
                entries.push(entry);
            }
        }
        for taken in entries.iter().chain(&gone).chain(&late) {
            self.shares.give_back(&taken.client, taken.counted);
        }
        Batch { entries, gone, late }
    }
}

/// Tokens and items of entries.
pub fn load_of<T>(entries: &[Entry<T>]) -> Load {
    let add = |load: Load, entry: &Entry<T>| load.plus(Load { tokens: entry.tokens, items: entry.items });
    entries.iter().fold(Load::default(), add)
}

#[cfg(test)]
pub mod tests {
    use proptest::prelude::*;

    use super::*;

    const WIDE: Load = Load { tokens: usize::MAX, items: usize::MAX };

    fn key(model: u64, want: Want) -> Key {
        Key { model, work: Work::Estimates(want) }
    }

    /// One sequence, of nobody in particular.
    pub fn entry<T>(key: Key, tokens: usize, since: Instant, payload: T) -> Entry<T> {
        let (client, priority) = (Client::default(), Priority::Normal);
        let counted = Load::default();
        Entry { key, client, priority, since, items: 1, tokens, own: tokens, counted, payload }
    }

    fn whose(client: &str, priority: Priority) -> Whose {
        Whose { priority, client: named(client), model: 0 }
    }

    fn named(name: &str) -> Client {
        Client(Some(name.into()))
    }

    fn nobody() -> Whose {
        Whose { priority: Priority::Normal, client: Client::default(), model: 0 }
    }

    /// Entries of one request whose payloads number them from `first`.
    fn push(queue: &mut Queue<usize>, first: usize, key: Key, tokens: &[usize]) -> Result<(), Load> {
        let now = Instant::now();
        fill(
            queue,
            (first..).zip(tokens).map(|(payload, tokens)| entry(key, *tokens, now, payload)).collect(),
        )
    }

    fn fill(queue: &mut Queue<usize>, entries: Vec<Entry<usize>>) -> Result<(), Load> {
        let whose = Whose { client: entries[0].client.clone(), ..nobody() };
        let counted = queue.reserve(&whose, load_of(&entries))?;
        queue.fill(&whose, counted, entries);
        Ok(())
    }

    fn payloads<T: Copy>(entries: &[Entry<T>]) -> Vec<T> {
        entries.iter().map(|entry| entry.payload).collect()
    }

    fn take(queue: &mut Queue<usize>) -> Vec<usize> {
        payloads(&queue.next_batch(Instant::now(), |_| Fate::Live).entries)
    }

    #[test]
    fn batches_take_the_oldest_first_within_the_budget() {
        let (mean, variance) = (key(0, Want::Mean), key(0, Want::MeanAndVariance));
        let mut queue = Queue::new(WIDE, 10);
        push(&mut queue, 0, mean, &[4, 5]).unwrap();
        push(&mut queue, 2, variance, &[3]).unwrap();
        push(&mut queue, 3, mean, &[2, 1, 40, 10]).unwrap();
        // 4 + 5, then 2 does not fit but 1 does; another kind; what is too large goes alone.
        for want in [vec![0, 1, 4], vec![2], vec![3], vec![5], vec![6], vec![]] {
            assert_eq!(take(&mut queue), want);
        }
        assert_eq!(queue.load(), Load::default());
    }

    #[test]
    fn what_neighbours_share_costs_once() {
        let mut queue = Queue::new(WIDE, 12);
        let of = |tokens: &[usize], own: &[usize]| -> Vec<Entry<usize>> {
            let entry = |(payload, (tokens, own)): (usize, (&usize, &usize))| Entry {
                own: *own,
                ..entry(key(0, Want::Mean), *tokens, Instant::now(), payload)
            };
            tokens.iter().zip(own).enumerate().map(entry).collect()
        };
        fill(&mut queue, of(&[9, 9, 9, 9], &[9, 1, 1, 1])).unwrap();
        assert_eq!(take(&mut queue), [0, 1, 2, 3]);
        fill(&mut queue, of(&[9, 13, 9], &[9, 13, 1])).unwrap();
        // What does not fit leaves nothing to share.
        assert_eq!(take(&mut queue), [0]);
    }

    #[test]
    fn a_full_queue_admits_all_or_nothing() {
        let mut queue = Queue::new(Load { tokens: 10, items: 5 }, 10);
        let mean = key(0, Want::Mean);
        push(&mut queue, 0, mean, &[5]).unwrap();
        // With 9 of 10 it would have more than four times the one that is free.
        assert_eq!(push(&mut queue, 1, mean, &[2, 2]), Err(Load { tokens: 5, items: 0 }));
        assert_eq!(queue.load(), Load { tokens: 5, items: 1 });
        push(&mut queue, 1, mean, &[1, 1, 1]).unwrap();
        assert_eq!(
            push(&mut queue, 4, mean, &[0]),
            Err(Load { tokens: 0, items: 5 }),
            "items are bounded too"
        );
        assert_eq!(take(&mut queue), [0, 1, 2, 3]);
        push(&mut queue, 3, mean, &[50, 1, 1, 1]).unwrap();
        assert_eq!(
            queue.load(),
            Load { tokens: 10, items: 4 },
            "an empty queue admits a request of any size"
        );
        assert_eq!(take(&mut queue).len(), 1);
        assert_eq!(queue.load(), Load { tokens: 0, items: 3 });
    }

    #[test]
    fn a_reservation_counts_until_it_is_released_or_filled() {
        let mut queue: Queue<usize> = Queue::new(Load { tokens: 10, items: 9 }, 10);
        let (reserved, whose) = (Load { tokens: 8, items: 1 }, nobody());
        assert_eq!(queue.reserve(&whose, reserved), Ok(reserved));
        assert!(queue.reserve(&whose, reserved).is_err());
        queue.release(&whose, reserved);
        queue.reserve(&whose, reserved).unwrap();
        let larger = Entry { items: 3, ..entry(key(0, Want::Mean), 12, Instant::now(), 0) };
        queue.fill(&whose, reserved, vec![larger]);
        assert_eq!(queue.load(), Load { tokens: 10, items: 3 }, "what counts is never above the bounds");
        take(&mut queue);
        assert_eq!(queue.load(), Load::default());
        assert!(queue.promised.is_empty());
    }

    #[test]
    fn the_dead_are_dropped_and_cost_no_budget() {
        let mut queue = Queue::new(WIDE, 10);
        push(&mut queue, 0, key(0, Want::Mean), &[10, 10, 9]).unwrap();
        let fates = [Fate::Gone, Fate::Late, Fate::Live];
        let batch = queue.next_batch(Instant::now(), |payload| fates[*payload]);
        assert_eq!((payloads(&batch.gone), payloads(&batch.late)), (vec![0], vec![1]));
        assert_eq!(payloads(&batch.entries), [2]);
        assert_eq!((queue.load(), queue.is_empty()), (Load::default(), true));
    }

    #[test]
    fn the_wait_is_for_ones_own_line_and_as_much_of_the_others() {
        let (mut queue, mut pace, now) = (Queue::new(WIDE, 10), Pace::default(), Instant::now());
        let (mean, variance) = (key(0, Want::Mean), key(0, Want::MeanAndVariance));
        for (key, seconds) in [(mean, 1), (variance, 2)] {
            pace.begin(key.work, 10, now);
            pace.end(now + Duration::from_secs(seconds));
        }
        let of = |client, priority, key, tokens| {
            vec![Entry { client: named(client), priority, ..entry(key, tokens, now, 0) }]
        };
        fill(&mut queue, of("a", Priority::Normal, mean, 20)).unwrap();
        fill(&mut queue, of("b", Priority::Normal, variance, 100)).unwrap();
        queue.reserve(&nobody(), Load { tokens: 5, items: 1 }).unwrap();
        let wait = |client, priority, tokens| {
            queue.wait(&whose(client, priority), mean.work, tokens, &pace).as_millis()
        };
        // Half a second is promised to nobody in particular. 2 s of its own, and with 1 s more as much of the other's.
        assert_eq!(wait("a", Priority::Normal, 10), 500 + 2000 + 3000);
        assert_eq!(wait("b", Priority::Normal, 10), 500 + 20_000 + 2000);
        assert_eq!(wait("c", Priority::Normal, 10), 500 + 1000 + 1000);
        assert_eq!(wait("c", Priority::High, 10), 0);
        assert_eq!(wait("c", Priority::Low, 10), 500 + 2000 + 20_000);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_batches_are_of_one_key_within_the_budget(
            sizes in prop::collection::vec((1usize..30, 0u64..2, any::<bool>()), 1..40), budget in 1usize..60,
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
                // Of one client, the oldest of a model leads.
                let oldest = left.iter().find(|at| keys[**at].model == keys[batch[0]].model);
                prop_assert_eq!(batch.first(), oldest);
                prop_assert!(batch.iter().all(|at| keys[*at] == keys[batch[0]]));
                let tokens: usize = batch.iter().map(|at| sizes[*at].0).sum();
                prop_assert!(tokens <= budget || batch.len() == 1);
                prop_assert!(batch.iter().all(|at| left.contains(at)));
                left.retain(|at| !batch.contains(at));
            }
            prop_assert!(left.is_empty());
            prop_assert_eq!(queue.load(), Load::default());
        }
    }
}

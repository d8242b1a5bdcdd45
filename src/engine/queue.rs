//! What waits for the model: a bounded queue that hands out batches by token budget.
//!
//! A plain struct without a runtime, a lock or a clock: the caller says what time it is and whose client
//! has gone. Everything that is admitted counts against the bounds, from the reservation that precedes
//! tokenising until the worker takes it. A batch starts with the entry whose turn it is (`fair.rs`) and takes
//! whatever has the same key and still fits the budget, what it shares with its neighbour not counted; an entry larger
//! than the budget runs alone.

use std::time::{Duration, Instant};

use super::{
    fair::{Lines, Whose},
    pace::Pace,
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
    bounds: Load,
    batch_tokens: usize,
    load: Load,
    /// The part of `load` that is still being tokenised.
    promised: Load,
    lines: Lines<T>,
}

impl<T> Queue<T> {
    /// Makes an empty queue that admits up to `bounds` and hands out batches of up to `batch_tokens`.
    pub fn new(bounds: Load, batch_tokens: usize) -> Self {
        Self { bounds, batch_tokens, load: Load::default(), promised: Load::default(), lines: Lines::new() }
    }

    /// Returns what counts against the bounds.
    pub fn load(&self) -> Load {
        self.load
    }

    /// Returns whether nothing waits for the worker.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Admits a request whole, or tells by how much it is too large; an empty queue admits one of any size.
    pub fn reserve(&mut self, wanted: Load) -> Result<(), Load> {
        let load = self.load.plus(wanted);
        if self.load != Load::default() && !load.within(self.bounds) {
            return Err(load.minus(self.bounds));
        }
        self.load = load;
        self.promised = self.promised.plus(wanted);
        Ok(())
    }

    /// Gives a reservation back.
    pub fn release(&mut self, reserved: Load) {
        self.load = self.load.minus(reserved);
        self.promised = self.promised.minus(reserved);
    }

    /// How long something of so many tokens waits if it joins a line now. What its own line has is before it; of every other
    /// that is as urgent, no more than its own line has then, since their turns are equal. What is not tokenised yet is taken
    /// to be of the same kind, and to come first.
    pub fn wait(&self, whose: &Whose, work: Work, tokens: usize, pace: &Pace) -> Duration {
        let (mut own, mut others) = (Duration::ZERO, Vec::new());
        for line in self.lines.iter().filter(|line| line.whose.priority <= whose.priority) {
            let time = line.entries().map(|entry| pace.of(entry.key.work, entry.tokens));
            let time = time.fold(Duration::ZERO, Duration::saturating_add);
            match line.whose == *whose {
                true => own = time,
                false => others.push((line.whose.priority, time)),
            }
        }
        let turn = own.saturating_add(pace.of(work, tokens));
        let before = |(priority, time)| if priority == whose.priority { turn.min(time) } else { time };
        let before = others.into_iter().map(before);
        before.fold(own.saturating_add(pace.of(work, self.promised.tokens)), Duration::saturating_add)
    }

    /// Turns a reservation into entries. Their true size counts from here on, even past the bounds: what
    /// was admitted is not refused afterwards.
    pub fn fill(&mut self, reserved: Load, entries: Vec<Entry<T>>) {
        self.release(reserved);
        self.load = self.load.plus(load_of(&entries));
        entries.into_iter().for_each(|entry| self.lines.push(entry));
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
        for taken in [&entries, &gone, &late] {
            self.load = self.load.minus(load_of(taken));
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
        Entry { key, client, priority, since, items: 1, tokens, own: tokens, payload }
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
        let load = load_of(&entries);
        queue.reserve(load)?;
        queue.fill(load, entries);
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
        let mut queue = Queue::new(Load { tokens: 10, items: 3 }, 10);
        let mean = key(0, Want::Mean);
        push(&mut queue, 0, mean, &[6]).unwrap();
        assert_eq!(push(&mut queue, 1, mean, &[2, 3]), Err(Load { tokens: 1, items: 0 }));
        assert_eq!(queue.load(), Load { tokens: 6, items: 1 });
        push(&mut queue, 1, mean, &[2, 2]).unwrap();
        assert_eq!(
            push(&mut queue, 3, mean, &[0]),
            Err(Load { tokens: 0, items: 1 }),
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
        let larger = Entry { items: 3, ..entry(key(0, Want::Mean), 12, Instant::now(), 0) };
        queue.fill(reserved, vec![larger]);
        assert_eq!(queue.load(), Load { tokens: 12, items: 3 });
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
        let named = |name: &str| Client(Some(name.into()));
        let whose = |client: &str, priority| Whose { priority, client: named(client), model: 0 };
        let of = |client, priority, key, tokens| {
            vec![Entry { client: named(client), priority, ..entry(key, tokens, now, 0) }]
        };
        fill(&mut queue, of("a", Priority::Normal, mean, 20)).unwrap();
        fill(&mut queue, of("b", Priority::Normal, variance, 100)).unwrap();
        queue.reserve(Load { tokens: 5, items: 1 }).unwrap();
        let wait = |client, priority, tokens| {
            queue.wait(&whose(client, priority), mean.work, tokens, &pace).as_millis()
        };
        // Half a second is promised. 2 s of its own, and with 1 s more as much of the other's.
        assert_eq!(wait("a", Priority::Normal, 10), 500 + 2000 + 3000);
        assert_eq!(wait("b", Priority::Normal, 10), 500 + 20_000 + 2000);
        assert_eq!(wait("c", Priority::Normal, 10), 500 + 1000 + 1000);
        assert_eq!(wait("c", Priority::High, 10), 500);
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

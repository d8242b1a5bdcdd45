//! Whose turn it is: a line for each client and model of each priority.
//!
//! The line that was served least has the next turn, a deficit round robin whose deficits are kept as what each line was served:
//! whatever one line sends, another one waits for no more than its equal share of the worker. A line that comes back starts with
//! those that wait, so that being away earns nothing, but what it had ahead of them stays. Batches are of one model, so that a
//! line may have more than its share of one; it then has less of the next.
//!
//! More urgent lines come first. A priority that has been passed over for [`AGE`] has a turn all the same, so that nothing
//! starves. Within its line the oldest entry leads a batch; beside the leader those of about its length go first, because a
//! short one would wait for a long one's end, unless they have waited for [`AGE`].

use std::{
    collections::{HashSet, VecDeque},
    time::{Duration, Instant},
};

use super::{
    queue::{Entry, Fate, Key},
    terms::{Client, Priority},
};

/// How long what is urgent, or of a better length, may be preferred to something.
pub const AGE: Duration = Duration::from_secs(2);

/// Who waits: a client, with what it asks of one model as urgently.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Whose {
    pub priority: Priority,
    pub client: Client,
    pub model: u64,
}

/// All lines.
#[derive(Debug)]
pub struct Lines<T> {
    lines: Vec<Line<T>>,
    /// How many entries have come.
    arrivals: u64,
    /// When each priority last had a turn.
    turns: [Option<Instant>; Priority::ALL.len()],
}

/// The entries of one line, oldest first.
#[derive(Debug)]
pub struct Line<T> {
    pub whose: Whose,
    /// Tokens that it was served.
    served: u64,
    waiting: VecDeque<Waiting<T>>,
}

#[derive(Debug)]
struct Waiting<T> {
    arrival: u64,
    entry: Entry<T>,
}

/// What a batch has so far.
#[derive(Debug)]
pub struct Beside {
    key: Key,
    priority: Priority,
    /// Tokens of the leader.
    tokens: usize,
    /// Tokens that the batch still takes.
    room: usize,
    /// The arrivals of its entries.
    arrivals: HashSet<u64>,
}

impl<T> Lines<T> {
    /// Makes no lines.
    pub fn new() -> Self {
        Self { lines: Vec::new(), arrivals: 0, turns: Default::default() }
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.lines.iter().all(|line| line.waiting.is_empty())
    }

    /// The lines, also of those who have just been served.
    pub fn iter(&self) -> impl Iterator<Item = &Line<T>> {
        self.lines.iter()
    }

    /// Puts an entry at the end of its line.
    pub fn push(&mut self, entry: Entry<T>) {
        let whose = Whose { priority: entry.priority, client: entry.client.clone(), model: entry.key.model };
        self.arrivals += 1;
        let waiting = Waiting { arrival: self.arrivals, entry };
        let at = self.line(whose);
        self.lines[at].waiting.push_back(waiting);
    }

    /// Finds a line that waits, or opens one level with the others of its priority.
    fn line(&mut self, whose: Whose) -> usize {
        let found = self.lines.iter().position(|line| line.whose == whose);
        if let Some(at) = found.filter(|at| !self.lines[*at].waiting.is_empty()) {
            return at;
        }
        let level = self.of(whose.priority).map(|line| line.served).min();
        // What is not ahead of those that wait, or has nobody to be ahead of, need not be remembered.
        let ahead = |line: &Line<T>| level.is_some_and(|level| line.served > level);
        self.lines
            .retain(|line| line.whose.priority != whose.priority || !line.waiting.is_empty() || ahead(line));
        self.lines.iter().position(|line| line.whose == whose).unwrap_or_else(|| {
            self.lines.push(Line { whose, served: level.unwrap_or(0), waiting: VecDeque::new() });
            self.lines.len() - 1
        })
    }

    /// The lines of a priority that wait.
    fn of(&self, priority: Priority) -> impl Iterator<Item = &Line<T>> {
        self.lines.iter().filter(move |line| line.whose.priority == priority && !line.waiting.is_empty())
    }

    /// Takes out what nobody waits for any more.
    pub fn dead(&mut self, mut fate: impl FnMut(&T) -> Fate) -> (Vec<Entry<T>>, Vec<Entry<T>>) {
        let (mut gone, mut late) = (Vec::new(), Vec::new());
        for line in &mut self.lines {
            let mut live = VecDeque::with_capacity(line.waiting.len());
            for waiting in line.waiting.drain(..) {
                match fate(&waiting.entry.payload) {
                    Fate::Live => live.push_back(waiting),
                    Fate::Late => late.push(waiting.entry),
                    Fate::Gone => gone.push(waiting.entry),
                }
            }
            line.waiting = live;
        }
        (gone, late)
    }

    /// Takes the entry that leads the next batch, of up to `room` tokens.
    pub fn leader(&mut self, room: usize, now: Instant) -> Option<(Entry<T>, Beside)> {
        let priority = self.turn(now)?;
        let is_waiting = |line: &&mut Line<T>| line.whose.priority == priority && !line.waiting.is_empty();
        let line = self.lines.iter_mut().filter(is_waiting).min_by_key(|line| line.turn())?;
        let Waiting { arrival, entry } = line.waiting.pop_front()?;
        line.served += entry.tokens as u64;
        self.turns[priority as usize] = Some(now);
        let beside = Beside {
            key: entry.key,
            priority,
            tokens: entry.tokens,
            room: room.saturating_sub(entry.tokens),
            arrivals: HashSet::from([arrival]),
        };
        Some((entry, beside))
    }

    /// The priority whose turn it is: the most urgent, unless another has been passed over for too long.
    fn turn(&self, now: Instant) -> Option<Priority> {
        let passed_over = |priority: Priority| {
            let oldest = self.of(priority).filter_map(Line::oldest).min()?;
            let since = self.turns[priority as usize].map_or(oldest, |turn| turn.max(oldest));
            Some((now.saturating_duration_since(since), priority))
        };
        let waiting = || Priority::ALL.into_iter().filter_map(passed_over);
        let overdue = waiting().filter(|(since, _)| *since >= AGE).max();
        overdue.or_else(|| waiting().next()).map(|(_, priority)| priority)
    }

    /// Takes what goes best beside what the batch has: of the leader's priority first, and of whom was served least.
    pub fn next(&mut self, beside: &mut Beside, now: Instant) -> Option<Entry<T>> {
        let candidates = self.lines.iter_mut().filter_map(|line| {
            let at = line.best(beside, now)?;
            let rank = (line.whose.priority != beside.priority, line.whose.priority, line.turn());
            Some((rank, at, line))
        });
        let (_, at, line) = candidates.min_by_key(|(rank, ..)| *rank)?;
        let Waiting { arrival, entry } = line.waiting.remove(at)?;
        let cost = beside.cost(arrival, &entry);
        line.served += cost as u64;
        beside.room = beside.room.saturating_sub(cost);
        beside.arrivals.insert(arrival);
        Some(entry)
    }
}

impl<T> Line<T> {
    /// The entries.
    pub fn entries(&self) -> impl Iterator<Item = &Entry<T>> {
        self.waiting.iter().map(|waiting| &waiting.entry)
    }

    /// What it was served, and of equals which has waited longest; nothing of a line where nobody waits.
    fn turn(&self) -> Option<(u64, u64)> {
        self.waiting.front().map(|first| (self.served, first.arrival))
    }

    /// When its oldest entry came.
    fn oldest(&self) -> Option<Instant> {
        self.waiting.front().map(|first| first.entry.since)
    }

    /// The entry that fits a batch best: the oldest that has waited too long, or the one nearest to the leader in length.
    fn best(&self, beside: &Beside, now: Instant) -> Option<usize> {
        let numbered = self.waiting.iter().enumerate();
        let fitting = numbered.filter(|(_, Waiting { arrival, entry })| {
            entry.key == beside.key && beside.cost(*arrival, entry) <= beside.room
        });
        let distance = |waiting: &Waiting<T>| match now.saturating_duration_since(waiting.entry.since) >= AGE
        {
            true => None,
            false => Some(octave(waiting.entry.tokens).abs_diff(octave(beside.tokens))),
        };
        fitting.min_by_key(|(_, waiting)| distance(waiting)).map(|(at, _)| at)
    }
}

impl Beside {
    /// Candidates of one prompt come one after the other, and the model computes what they share once.
    fn cost<T>(&self, arrival: u64, entry: &Entry<T>) -> usize {
        if self.arrivals.contains(&(arrival - 1)) { entry.own } else { entry.tokens }
    }
}

/// Lengths within a factor of two are alike.
fn octave(tokens: usize) -> u32 {
    tokens.max(1).ilog2()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        engine::queue::{Work, tests::entry},
        score::Want,
    };

    const WORK: Work = Work::Estimates(Want::Mean);

    /// An entry of a client, for a model; the payload is what it is called.
    fn of<T>(client: &str, model: u64, tokens: usize, since: Instant, payload: T) -> Entry<T> {
        let key = Key { model, work: WORK };
        Entry { client: Client(Some(client.into())), ..entry(key, tokens, since, payload) }
    }

    fn urgent<T>(priority: Priority, entry: Entry<T>) -> Entry<T> {
        Entry { priority, ..entry }
    }

    fn batch<T>(lines: &mut Lines<T>, budget: usize, now: Instant) -> Vec<T> {
        let Some((leader, mut beside)) = lines.leader(budget, now) else { return Vec::new() };
        let mut batch = vec![leader.payload];
        while let Some(entry) = lines.next(&mut beside, now) {
            batch.push(entry.payload);
        }
        batch
    }

    #[test]
    fn clients_and_models_take_turns() {
        let (mut lines, now) = (Lines::new(), Instant::now());
        for number in 0..4 {
            lines.push(of("many", 0, 10, now, ("many", number)));
        }
        lines.push(of("few", 0, 10, now, ("few", 0)));
        lines.push(of("many", 1, 10, now, ("other model", 0)));
        let batches = [(); 5].map(|()| batch(&mut lines, 20, now));
        assert_eq!(batches[0], [("many", 0), ("few", 0)]);
        assert_eq!(batches[1], [("other model", 0)]);
        assert_eq!(batches[2], [("many", 1), ("many", 2)]);
        assert_eq!(batches[3], [("many", 3)]);
        assert!(batches[4].is_empty() && lines.is_empty());
    }

    #[test]
    fn being_away_earns_nothing_and_what_one_had_ahead_stays() {
        let (mut lines, now) = (Lines::new(), Instant::now());
        for _ in 0..20 {
            lines.push(of("here", 0, 10, now, "here"));
        }
        lines.push(of("large", 0, 50, now, "large"));
        assert_eq!(batch(&mut lines, 1, now), ["here"]);
        assert_eq!(batch(&mut lines, 1, now), ["large"]);
        lines.push(of("large", 0, 50, now, "large"));
        // It was served 50, and the other one 10: that one catches up first.
        for _ in 0..4 {
            assert_eq!(batch(&mut lines, 1, now), ["here"]);
        }
        lines.push(of("late", 0, 10, now, "late"));
        let mut next: Vec<_> = (0..3).flat_map(|_| batch(&mut lines, 1, now)).collect();
        next.sort_unstable();
        assert_eq!(next, ["here", "large", "late"], "who comes late has one turn as the others have");
    }

    #[test]
    fn the_urgent_come_first_and_nobody_is_passed_over_for_ever() {
        let (mut lines, start) = (Lines::new(), Instant::now());
        for (priority, name) in
            [(Priority::Low, "low"), (Priority::Normal, "normal"), (Priority::High, "high")]
        {
            for _ in 0..50 {
                lines.push(urgent(priority, of("one", 0, 10, start, name)));
            }
        }
        let seconds = |seconds| start + Duration::from_secs_f64(seconds);
        let turns: Vec<_> =
            (0..50).map(|turn| batch(&mut lines, 10, seconds(f64::from(turn) / 10.0))[0]).collect();
        let count = |name| turns.iter().filter(|turn| **turn == name).count();
        assert!(turns[..20].iter().all(|turn| *turn == "high"), "{turns:?}");
        assert_eq!((count("normal"), count("low")), (2, 2), "each at 2 s and at 4 s: {turns:?}");
    }

    #[test]
    fn what_is_urgent_leaves_room_to_others() {
        let (mut lines, now) = (Lines::new(), Instant::now());
        lines.push(urgent(Priority::Low, of("one", 0, 10, now, "low")));
        lines.push(of("one", 0, 10, now, "normal"));
        assert_eq!(batch(&mut lines, 20, now), ["normal", "low"]);
    }

    #[test]
    fn lengths_go_together_until_one_has_waited_too_long() {
        let (mut lines, now) = (Lines::new(), Instant::now());
        let fill = |lines: &mut Lines<usize>| {
            for tokens in [100, 9, 90, 20, 110] {
                lines.push(of("one", 0, tokens, now, tokens));
            }
        };
        fill(&mut lines);
        assert_eq!(batch(&mut lines, 300, now), [100, 90, 110]);
        assert_eq!(batch(&mut lines, 300, now), [9, 20]);
        fill(&mut lines);
        assert_eq!(batch(&mut lines, 300, now + AGE), [100, 9, 90, 20]);
    }

    proptest! {
        /// As long as two lines wait, neither is served more than a batch and an entry ahead of the other.
        #[test]
        fn nobody_gets_ahead_of_those_who_wait(
            sent in prop::collection::vec((0usize..4, 0u64..2, 1usize..40), 1..120), budget in 1usize..80,
        ) {
            let (mut lines, now) = (Lines::new(), Instant::now());
            let mut left: BTreeMap<(usize, u64), Vec<usize>> = BTreeMap::new();
            for (at, (client, model, tokens)) in sent.iter().enumerate() {
                lines.push(of(&client.to_string(), *model, *tokens, now, at));
                left.entry((*client, *model)).or_default().push(at);
            }
            let mut served: BTreeMap<(usize, u64), usize> = left.keys().map(|line| (*line, 0)).collect();
            let ahead = budget + 2 * 40;
            while !lines.is_empty() {
                for at in batch(&mut lines, budget, now) {
                    let (client, model, tokens) = sent[at];
                    let line = left.get_mut(&(client, model)).unwrap();
                    let place = line.iter().position(|other| *other == at);
                    prop_assert!(place.is_some(), "nothing is taken twice");
                    line.remove(place.unwrap());
                    *served.get_mut(&(client, model)).unwrap() += tokens;
                }
                let waiting = || left.iter().filter(|(_, line)| !line.is_empty()).map(|(line, _)| served[line]);
                if let (Some(least), Some(most)) = (waiting().min(), waiting().max()) {
                    prop_assert!(most <= least + ahead, "{served:?}");
                }
            }
            prop_assert!(left.values().all(Vec::is_empty), "nothing is lost");
        }

        /// A small client's entry is taken while a flood of another's waits, however the flood goes on.
        #[test]
        fn a_flood_keeps_nobody_waiting(sizes in prop::collection::vec(1usize..40, 50..100), budget in 1usize..80) {
            let (mut lines, now) = (Lines::new(), Instant::now());
            sizes.iter().for_each(|tokens| lines.push(of("flood", 0, *tokens, now, "flood")));
            batch(&mut lines, budget, now);
            lines.push(of("small", 0, 5, now, "small"));
            lines.push(of("flood", 0, 5, now, "flood"));
            let taken = (0..2).flat_map(|_| batch(&mut lines, budget, now)).any(|name| name == "small");
            prop_assert!(taken);
        }
    }
}

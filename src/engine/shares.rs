//! Shares of something bounded: no client can have all of it.
//!
//! A client may have up to four times as much as is free, after Choudhury and Hahne, "Dynamic queue length thresholds for
//! shared-memory packet switches" (1998): one alone has four fifths of the whole, two have four ninths each, and however many
//! there are, the next one still finds room. The shares never add up to more than the bound.

use std::collections::HashMap;

use super::{queue::Load, terms::Client};

/// One client may have so many times as much as is free.
const SHARE: usize = 4;

/// A bounded load, and each client's part of it.
#[derive(Debug)]
pub struct Shares {
    bounds: Load,
    taken: Load,
    clients: HashMap<Client, Load>,
}

impl Shares {
    /// Bounds the load of all clients together.
    pub fn new(bounds: Load) -> Self {
        Self { bounds, taken: Load::default(), clients: HashMap::new() }
    }

    /// Returns the load of all clients.
    pub fn taken(&self) -> Load {
        self.taken
    }

    /// Returns how much is left.
    pub fn free(&self) -> Load {
        self.bounds.minus(self.taken)
    }

    /// Takes as much as is wanted and tells how much that is, or tells by how much it is too much. More than the most that one client
    /// may have is given if nothing is taken, and counts as that most.
    pub fn take(&mut self, client: &Client, wanted: Load) -> Result<Load, Load> {
        let counted = if self.taken == Load::default() { wanted.min(self.most()) } else { wanted };
        let has = self.clients.get(client).copied().unwrap_or_default().plus(counted);
        let unfair = has.minus(self.free().minus(counted).times(SHARE));
        let excess = unfair.max(counted.minus(self.free()));
        if excess != Load::default() {
            return Err(excess);
        }
        self.add(client, counted);
        Ok(counted)
    }

    /// x of the bound b, where x = SHARE (b - x).
    fn most(&self) -> Load {
        let most = |bound: usize| bound - bound.div_ceil(SHARE + 1);
        Load { tokens: most(self.bounds.tokens), items: most(self.bounds.items) }
    }

    /// Adds to a client's part, which is free to be taken.
    pub fn add(&mut self, client: &Client, load: Load) {
        self.taken = self.taken.plus(load);
        let part = self.clients.entry(client.clone()).or_default();
        *part = part.plus(load);
    }

    /// Gives something back; a client that has nothing left is forgotten.
    pub fn give_back(&mut self, client: &Client, load: Load) {
        self.taken = self.taken.minus(load);
        let Some(part) = self.clients.get_mut(client) else { return };
        *part = part.minus(load);
        if *part == Load::default() {
            self.clients.remove(client);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn client(number: usize) -> Client {
        Client(Some(number.to_string().into()))
    }

    fn load(tokens: usize) -> Load {
        Load { tokens, items: 1 }
    }

    #[test]
    fn the_next_client_always_finds_room() {
        let mut shares = Shares::new(Load { tokens: 1000, items: 100_000 });
        let mut fill = |number: usize| {
            std::iter::repeat_with(|| shares.take(&client(number), load(1))).take_while(Result::is_ok).count()
        };
        // Each takes all that it can: four fifths of what the others have left.
        assert_eq!([0, 1, 2, 3, 4].map(&mut fill), [800, 160, 32, 6, 1]);
    }

    #[test]
    fn what_is_larger_than_all_is_given_if_nothing_is_taken() {
        let mut shares = Shares::new(Load { tokens: 10, items: 10 });
        assert_eq!(shares.take(&client(0), load(5000)), Ok(load(8)));
        assert_eq!(shares.take(&client(1), load(5000)), Err(Load { tokens: 5000, items: 0 }));
        assert_eq!(shares.take(&client(1), load(1)), Ok(load(1)));
        shares.give_back(&client(0), load(8));
        shares.give_back(&client(1), load(1));
        assert_eq!(shares.taken(), Load::default());
        assert!(shares.clients.is_empty());
    }

    proptest! {
        #[test]
        fn never_more_than_there_is_and_nothing_is_lost(
            bound in 1usize..200, asked in prop::collection::vec((0usize..4, 0usize..150), 1..60),
        ) {
            let mut shares = Shares::new(Load { tokens: bound, items: 1000 });
            let mut held = Vec::new();
            for (number, tokens) in asked {
                if let Ok(counted) = shares.take(&client(number), load(tokens)) {
                    held.push((number, counted));
                }
                prop_assert!(shares.taken().tokens <= bound);
                let sum: usize = held.iter().map(|(_, load)| load.tokens).sum();
                prop_assert_eq!(shares.taken().tokens, sum);
            }
            held.into_iter().for_each(|(number, load)| shares.give_back(&client(number), load));
            prop_assert_eq!(shares.taken(), Load::default());
        }
    }
}

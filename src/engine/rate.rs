//! What one client may ask for: so many requests at once, and so many tokens or items a second.
//!
//! Each client has a bucket that a second fills. Who has anything in it may ask for as much as it likes, and waits afterwards
//! until the bucket is above its bottom again: a large request is not refused for ever, and no one gets more than the rate in the
//! long run. Without a clock of its own: the caller says what time it is.

use std::{
    collections::HashMap,
    str::FromStr,
    time::{Duration, Instant},
};

use super::{queue::Load, terms::Client};
use crate::{Error, Result};

/// What each client may.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Allowance {
    /// Requests that are being answered.
    pub concurrency: Option<usize>,
    /// How much it may ask for in the long run.
    pub rate: Option<Rate>,
}

/// So much a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    per_second: u32,
    of: Unit,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Tokens,
    Items,
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, of) = match text.strip_suffix("items") {
            Some(number) => (number, Unit::Items),
            None => (text.strip_suffix("tokens").unwrap_or(text), Unit::Tokens),
        };
        let per_second = number.trim().parse().ok().filter(|number| *number > 0);
        let hint = "expected a whole number above 0, of tokens or, with `items` behind it, of items";
        Ok(Self { per_second: per_second.ok_or(hint)?, of })
    }
}

impl Rate {
    fn cost(self, load: Load) -> f64 {
        match self.of {
            Unit::Tokens => load.tokens as f64,
            Unit::Items => load.items as f64,
        }
    }
}

/// What clients have under way, and what they may ask for now.
#[derive(Debug)]
pub struct Accounts {
    allowance: Allowance,
    clients: HashMap<Client, Account>,
}

#[derive(Debug)]
struct Account {
    under_way: usize,
    /// What is in the bucket, at most what a second fills; below zero it is owed.
    left: f64,
    /// When that was so.
    at: Instant,
}

impl Accounts {
    /// Opens the books.
    pub fn new(allowance: Allowance) -> Self {
        Self { allowance, clients: HashMap::new() }
    }

    /// Says whether a client may ask for something now, or when it may.
    pub fn check(&mut self, client: &Client, now: Instant) -> Result<()> {
        let Allowance { concurrency, rate } = self.allowance;
        let account = self.account(client, now);
        if concurrency.is_some_and(|most| account.under_way >= most) {
            return Err(Error::Limited { what: "requests at once", retry: Duration::ZERO });
        }
        match rate {
            Some(rate) if account.left <= 0.0 => {
                // A little more than nothing has to be in it.
                let seconds = (1.0 - account.left) / f64::from(rate.per_second);
                let retry = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
                Err(Error::Limited { what: "tokens or items a second", retry })
            }
            _ => Ok(()),
        }
    }

    /// Enters a request, and charges its client.
    pub fn enter(&mut self, client: &Client, load: Load, now: Instant) {
        let cost = self.cost(load);
        let account = self.account(client, now);
        account.under_way += 1;
        account.left -= cost;
    }

    /// Puts what a request really is in the place of what it was taken for.
    pub fn settle(&mut self, client: &Client, taken_for: Load, is: Load, now: Instant) {
        let owed = self.cost(is) - self.cost(taken_for);
        self.account(client, now).left -= owed;
    }

    /// Strikes out a request that is over.
    pub fn leave(&mut self, client: &Client, now: Instant) {
        let account = self.account(client, now);
        account.under_way = account.under_way.saturating_sub(1);
    }

    fn cost(&self, load: Load) -> f64 {
        self.allowance.rate.map_or(0.0, |rate| rate.cost(load))
    }

    /// A client's account as it stands now. There are no more of them than keys.
    fn account(&mut self, client: &Client, now: Instant) -> &mut Account {
        let most = self.allowance.rate.map_or(0.0, |rate| f64::from(rate.per_second));
        let account = self.clients.entry(client.clone());
        let account = account.or_insert(Account { under_way: 0, left: most, at: now });
        let seconds = now.saturating_duration_since(account.at).as_secs_f64();
        account.left = (account.left + seconds * most).min(most);
        account.at = account.at.max(now);
        account
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn client(name: &str) -> Client {
        Client(Some(name.into()))
    }

    fn load(tokens: usize, items: usize) -> Load {
        Load { tokens, items }
    }

    fn accounts(concurrency: Option<usize>, rate: Option<&str>) -> Accounts {
        Accounts::new(Allowance { concurrency, rate: rate.map(|rate| rate.parse().unwrap()) })
    }

    fn retry(result: Result<()>) -> Option<Duration> {
        match result {
            Err(Error::Limited { retry, .. }) => Some(retry),
            other => other.map(|()| None).unwrap(),
        }
    }

    #[test]
    fn a_rate_is_of_tokens_or_items() {
        let rate = |per_second, of| Ok(Rate { per_second, of });
        for (text, want) in [
            ("100", rate(100, Unit::Tokens)),
            ("100tokens", rate(100, Unit::Tokens)),
            ("7 items", rate(7, Unit::Items)),
        ] {
            assert_eq!(text.parse(), want, "{text}");
        }
        for wrong in ["", "0", "-1", "1.5", "items", "1 pages", "99999999999"] {
            assert!(wrong.parse::<Rate>().unwrap_err().starts_with("expected a whole number"), "{wrong}");
        }
    }

    #[test]
    fn each_client_has_so_many_requests_under_way() {
        let (mut accounts, now) = (accounts(Some(2), None), Instant::now());
        let (one, other) = (client("one"), client("other"));
        for _ in 0..2 {
            assert_eq!(retry(accounts.check(&one, now)), None);
            accounts.enter(&one, load(1, 1), now);
        }
        assert!(retry(accounts.check(&one, now)).is_some());
        assert_eq!(retry(accounts.check(&other, now)), None);
        assert_eq!(retry(accounts.check(&Client::default(), now)), None);
        accounts.leave(&one, now);
        assert_eq!(retry(accounts.check(&one, now)), None);
    }

    #[test]
    fn who_asks_for_more_than_there_is_pays_it_back() {
        let (mut accounts, now) = (accounts(None, Some("10")), Instant::now());
        let one = client("one");
        accounts.check(&one, now).unwrap();
        accounts.enter(&one, load(30, 1), now);
        assert_eq!(retry(accounts.check(&one, now)), Some(Duration::from_millis(2100)));
        assert_eq!(retry(accounts.check(&client("other"), now)), None);
        accounts.settle(&one, load(30, 1), load(20, 1), now);
        assert_eq!(retry(accounts.check(&one, now)), Some(Duration::from_millis(1100)));
        assert_eq!(retry(accounts.check(&one, now + Duration::from_millis(1100))), None);
    }

    #[test]
    fn items_are_counted_where_the_rate_is_of_items() {
        let (mut accounts, now) = (accounts(None, Some("2items")), Instant::now());
        accounts.enter(&client("one"), load(1000, 1), now);
        assert_eq!(retry(accounts.check(&client("one"), now)), None);
        accounts.enter(&client("one"), load(1, 1), now);
        assert!(retry(accounts.check(&client("one"), now)).is_some());
    }

    proptest! {
        #[test]
        fn nobody_gets_more_than_the_rate_in_the_long_run(
            asked in prop::collection::vec((0u64..400, 1usize..50), 1..80),
        ) {
            let (mut accounts, start) = (accounts(None, Some("20")), Instant::now());
            let (mut now, mut got, mut largest) = (start, 0, 0);
            for (pause, tokens) in asked {
                now += Duration::from_millis(pause);
                match retry(accounts.check(&client("one"), now)) {
                    None => {
                        accounts.enter(&client("one"), load(tokens, 1), now);
                        got += tokens;
                        largest = largest.max(tokens);
                    }
                    Some(retry) => {
                        prop_assert!(retry > Duration::ZERO);
                        prop_assert_eq!(self::retry(accounts.check(&client("one"), now + retry)), None);
                        // The clock does not go back, so that neither does the test's.
                        now += retry;
                    }
                }
                let seconds = (now - start).as_secs_f64();
                prop_assert!(got as f64 <= 20.0 * (1.0 + seconds) + largest as f64);
            }
        }
    }
}

//! Threads for the work of requests that is not the model's, above all tokenising. Clients take turns, however much one of them
//! sends.
//!
//! A request's work is a list of inputs. A thread does some of it, for [`TURN`] or one input if that takes longer, and then the
//! next client has its turn. Work is dropped between two inputs where its client has gone or its time is up. One client has all
//! threads but one at most, so that a long input of one keeps no other waiting for its end.

use std::{
    collections::{HashMap, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;
use tracing::{Span, error};

use super::terms::{Client, Terms};
use crate::{Error, Result};

/// Length of a client's turn, unless a single input takes longer.
const TURN: Duration = Duration::from_millis(5);

/// A handle on the threads, which end when the last is dropped and nothing waits.
#[derive(Debug)]
pub struct Threads {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// Threads that one client may have at once.
    most: usize,
}

#[derive(Debug, Default)]
struct State {
    /// Waiting work by client; the first client is next.
    lines: VecDeque<(Client, VecDeque<Task>)>,
    /// Threads that work for each client.
    working: HashMap<Client, usize>,
    closed: bool,
}

/// Does the next input, and says whether there is another one.
struct Task(Box<dyn FnMut() -> bool + Send>);

impl std::fmt::Debug for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Task")
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
    }
}

impl Threads {
    /// Starts threads: half as many as the machine has cores, and at least two.
    pub fn start() -> Result<Self> {
        let count = thread::available_parallelism().map_or(2, |cores| cores.get().div_ceil(2).max(2));
        let (state, changed) = (Mutex::default(), Condvar::new());
        let shared = Arc::new(Shared { state, changed, most: count - 1 });
        for _ in 0..count {
            let shared = Arc::clone(&shared);
            thread::Builder::new()
                .name("tokenizer".into())
                .spawn(move || shared.work())
                .map_err(|e| Error::Internal(format!("a thread does not start: {e}")))?;
        }
        Ok(Self { shared })
    }

    /// Computes something of every input, in their order; `of` is told by its second argument whether somebody still waits. `kept`
    /// goes along, and is dropped with the work where that is not finished.
    pub async fn each<I: Send + 'static, T: Send + 'static, K: Send + 'static>(
        &self,
        terms: &Terms,
        kept: K,
        inputs: Vec<I>,
        of: impl Fn(I, &dyn Fn() -> bool) -> T + Send + 'static,
    ) -> Result<(K, Vec<T>)> {
        let (reply, answer) = oneshot::channel();
        let (deadline, span) = (terms.deadline, Span::current());
        let mut done = Vec::with_capacity(inputs.len());
        let (mut inputs, mut open) = (inputs.into_iter(), Some((reply, kept)));
        let step = move || {
            let Some((reply, kept)) = open.take() else { return false };
            let live = || !reply.is_closed() && Instant::now() < deadline;
            match inputs.next() {
                _ if reply.is_closed() => return false,
                Some(_) if !live() => drop(reply.send(Err(Error::Deadline))),
                Some(input) => {
                    done.push(span.in_scope(|| of(input, &live)));
                    open = Some((reply, kept));
                    return true;
                }
                None => drop(reply.send(Ok((kept, std::mem::take(&mut done))))),
            }
            false
        };
        self.shared.push(terms.client.clone(), Task(Box::new(step)));
        answer.await.unwrap_or_else(|_| Err(Error::Internal("a computation failed".into())))
    }
}

impl Shared {
    /// Puts a client's work behind what it has waiting already.
    fn push(&self, client: Client, task: Task) {
        let mut state = self.lock();
        match state.lines.iter_mut().find(|(whose, _)| *whose == client) {
            Some((_, line)) => line.push_back(task),
            None => state.lines.push_back((client, VecDeque::from([task]))),
        }
        drop(state);
        self.changed.notify_one();
    }

    /// Works until the end; every thread runs this.
    fn work(&self) {
        while let Some((client, task)) = self.next() {
            let rest = turn(task);
            self.back(client, rest);
        }
    }

    /// Waits for the next client whose turn it is; `None` at the end.
    fn next(&self) -> Option<(Client, Task)> {
        let mut state = self.lock();
        loop {
            if let Some(next) = state.next(self.most) {
                return Some(next);
            }
            if state.closed && state.lines.is_empty() {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Takes a client's turn back, and what is left of its work.
    fn back(&self, client: Client, rest: Option<Task>) {
        let mut state = self.lock();
        if let Some(working) = state.working.get_mut(&client) {
            *working -= 1;
            if *working == 0 {
                state.working.remove(&client);
            }
        }
        if let Some(rest) = rest {
            match state.lines.iter_mut().find(|(whose, _)| *whose == client) {
                Some((_, line)) => line.push_front(rest),
                None => state.lines.push_back((client, VecDeque::from([rest]))),
            }
        }
        drop(state);
        self.changed.notify_all();
    }

    /// The lines are whole between any two changes, so a panic elsewhere does not spoil them.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The oldest work of the next client that has not `most` threads already; the client goes to the end.
    fn next(&mut self, most: usize) -> Option<(Client, Task)> {
        let free = |(client, _): &(Client, _)| self.working.get(client).is_none_or(|working| *working < most);
        let at = self.lines.iter().position(free)?;
        let (client, mut line) = self.lines.remove(at)?;
        let task = line.pop_front()?;
        if !line.is_empty() {
            self.lines.push_back((client.clone(), line));
        }
        *self.working.entry(client.clone()).or_default() += 1;
        Some((client, task))
    }
}

/// Works for a turn; what is left is given back. Work that panics is over, and whoever waits for it is told.
fn turn(mut task: Task) -> Option<Task> {
    let started = Instant::now();
    let worked = catch_unwind(AssertUnwindSafe(|| {
        loop {
            match (task.0)() {
                true if started.elapsed() >= TURN => return true,
                true => {}
                false => return false,
            }
        }
    }));
    match worked {
        Ok(more) => more.then_some(task),
        Err(_) => {
            error!("a computation panicked");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::terms::Priority;

    fn terms(client: &str, timeout: Duration) -> Terms {
        Terms::new(timeout, Client(Some(client.into())), Priority::default())
    }

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn every_input_is_done_in_order() {
        let threads = Threads::start().unwrap();
        let (kept, done) =
            threads.each(&terms("a", LONG), "kept", vec![1, 2, 3], |x, _| x * 2).await.unwrap();
        assert_eq!((kept, done), ("kept", vec![2, 4, 6]));
        let (_, none) = threads.each(&terms("a", LONG), (), Vec::<u8>::new(), |x, _| x).await.unwrap();
        assert!(none.is_empty());
    }

    #[tokio::test]
    async fn one_client_does_not_keep_another_waiting() {
        let threads = Arc::new(Threads::start().unwrap());
        let slow = |_, _: &dyn Fn() -> bool| thread::sleep(Duration::from_millis(20));
        let floods: Vec<_> = (0..8)
            .map(|_| {
                let threads = Arc::clone(&threads);
                tokio::spawn(async move { threads.each(&terms("many", LONG), (), vec![(); 100], slow).await })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(50)).await;
        let started = Instant::now();
        threads.each(&terms("few", LONG), (), vec![(); 5], |(), _| ()).await.unwrap();
        // All of the flood takes 16 s on one thread; the other client waits for no more than an input.
        assert!(started.elapsed() < Duration::from_millis(500), "{:?}", started.elapsed());
        floods.iter().for_each(tokio::task::JoinHandle::abort);
    }

    #[tokio::test]
    async fn work_ends_with_its_time_with_its_client_and_with_a_panic() {
        let threads = Arc::new(Threads::start().unwrap());
        let slow = |_, _: &dyn Fn() -> bool| thread::sleep(Duration::from_millis(5));
        let late = threads.each(&terms("a", Duration::from_millis(30)), (), vec![(); 10_000], slow).await;
        assert!(matches!(late, Err(Error::Deadline)));
        let broken = threads.each(&terms("a", LONG), (), vec![1], |x: u8, _| assert_eq!(x, 2)).await;
        assert!(matches!(broken, Err(Error::Internal(_))));
        let (again, seen) = (Arc::clone(&threads), Arc::new(()));
        let kept = Arc::clone(&seen);
        let gone =
            tokio::spawn(async move { again.each(&terms("a", LONG), kept, vec![(); 10_000], slow).await });
        tokio::time::sleep(Duration::from_millis(30)).await;
        gone.abort();
        let gone = async {
            while Arc::strong_count(&seen) > 1 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), gone).await.expect("what went along is dropped");
    }
}

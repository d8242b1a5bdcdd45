//! Connections: so many at once, and none that keeps its place without saying anything.
//!
//! A handler's time is bounded by the deadline, but that starts only when the headers are whole. Before that, and
//! between two requests, the connection's own clock runs: a client that sends its headers drop by drop, or
//! nothing, is hung up on. The clock stands still while a request is under way. Who takes nothing of an answer for as long as
//! a connection may rest is hung up on too.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    extract::connect_info::Connected,
    serve::{IncomingStream, Listener},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep, sleep},
};

use super::tls::{Stream, Tls};

/// How long a connection may rest between two requests, and an answer without the client taking any of it.
const REST: Duration = Duration::from_secs(75);

/// A listener that takes a bounded number of connections.
pub struct Bounded {
    listener: TcpListener,
    tls: Option<Tls>,
    places: Arc<Semaphore>,
    header_timeout: Duration,
}

impl Bounded {
    /// Bounds the connections of `listener`, and the time that each may take for its handshake and its headers.
    pub fn new(
        listener: TcpListener,
        tls: Option<Tls>,
        connections: usize,
        header_timeout: Duration,
    ) -> Self {
        let places = Arc::new(Semaphore::new(connections.clamp(1, Semaphore::MAX_PERMITS)));
        Self { listener, tls, places, header_timeout }
    }
}

impl Listener for Bounded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        // The semaphore is never closed, so there is always a place in the end.
        let place = Arc::clone(&self.places).acquire_owned().await.ok();
        let (stream, address) = Listener::accept(&mut self.listener).await;
        let stream = Stream::new(stream, self.tls.as_ref());
        (Connection::new(stream, place, self.header_timeout), address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// How often a request has begun or ended on a connection: odd while one is under way.
#[derive(Debug, Clone, Default)]
pub struct Turns(Arc<AtomicUsize>);

/// A request under way; its drop is the end.
#[derive(Debug)]
pub struct Turn(Turns);

impl Turns {
    /// Notes that a request has begun.
    pub fn begin(&self) -> Turn {
        self.0.fetch_add(1, Ordering::Relaxed);
        Turn(self.clone())
    }

    fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Connected<IncomingStream<'_, Bounded>> for Turns {
    fn connect_info(stream: IncomingStream<'_, Bounded>) -> Self {
        stream.io().turns.clone()
    }
}

/// A connection with its clock.
pub struct Connection {
    stream: Stream,
    turns: Turns,
    /// The count of turns that the clock was set for.
    seen: usize,
    /// Whether the next request's first byte has come.
    begun: bool,
    clock: Pin<Box<Sleep>>,
    header_timeout: Duration,
    /// Runs while the client takes nothing of what is written.
    stalled: Option<Pin<Box<Sleep>>>,
    /// Given back when the connection ends.
    _place: Option<OwnedSemaphorePermit>,
}

impl Connection {
    fn new(stream: Stream, place: Option<OwnedSemaphorePermit>, header_timeout: Duration) -> Self {
        let clock = Box::pin(sleep(header_timeout));
        let turns = Turns::default();
        Self { stream, turns, seen: 0, begun: true, clock, header_timeout, stalled: None, _place: place }
    }

    /// Sets the clock, unless the time cannot be represented: then it may as well run on.
    fn wait(&mut self, time: Duration) {
        if let Some(end) = Instant::now().checked_add(time) {
            self.clock.as_mut().reset(end);
        }
    }

    /// Passes on what came of writing; what takes too long is an error.
    fn written<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let clock = self.stalled.get_or_insert_with(|| Box::pin(sleep(REST)));
        ready!(clock.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let turns = self.turns.count();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if turns % 2 == 1 {
            return read;
        }
        if turns != self.seen {
            (self.seen, self.begun) = (turns, false);
            self.wait(REST);
        }
        match read {
            Poll::Ready(read) => {
                if !self.begun {
                    self.begun = true;
                    let time = self.header_timeout;
                    self.wait(time);
                }
                Poll::Ready(read)
            }
            Poll::Pending => {
                ready!(self.clock.as_mut().poll(context));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.written(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let written = Pin::new(&mut self.stream).poll_flush(context);
        self.written(context, written)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

//! Connections: so many at once (`places.rs`), and none that keeps its place without saying anything.
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
    time::{Instant, Sleep, sleep},
};

use super::{
    Config,
    places::{Place, Places},
    tls::{Stream, Tls},
};

/// A listener that takes a bounded number of connections.
pub struct Bounded {
    listener: TcpListener,
    tls: Option<Tls>,
    places: Places,
    patience: Patience,
}

/// How long a connection may do nothing.
#[derive(Debug, Clone, Copy)]
struct Patience {
    /// From its first byte to the end of a request's headers.
    headers: Duration,
    /// Between two requests, and in the middle of an answer of which its client takes nothing.
    rest: Duration,
}

impl Bounded {
    /// Bounds the connections of `listener`, and the time that each may take for its handshake and its headers.
    pub fn new(listener: TcpListener, tls: Option<Tls>, config: &Config) -> Self {
        let of_one = config.peer_connections.unwrap_or(config.connections - config.connections / 8);
        let places = Places::new(config.connections, of_one);
        let patience = Patience { headers: config.header_timeout, rest: config.rest };
        Self { listener, tls, places, patience }
    }
}

impl Listener for Bounded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            let (stream, address) = Listener::accept(&mut self.listener).await;
            // Dropped, where its address has too many connections.
            let Some(place) = self.places.take(address.ip().to_canonical()).await else { continue };
            let stream = Stream::new(stream, self.tls.as_ref());
            return (Connection::new(stream, place, self.patience), address);
        }
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

    /// Whether a request is under way.
    pub fn under_way(&self) -> bool {
        self.count() % 2 == 1
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
        stream.io().place.turns().clone()
    }
}

/// A connection with its clock.
pub struct Connection {
    stream: Stream,
    /// Given back when the connection ends.
    place: Place,
    /// The count of turns that the clock was set for.
    seen: usize,
    /// Whether the next request's first byte has come.
    begun: bool,
    clock: Pin<Box<Sleep>>,
    patience: Patience,
    /// Runs while the client takes nothing of what is written.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Connection {
    fn new(stream: Stream, place: Place, patience: Patience) -> Self {
        let clock = Box::pin(sleep(patience.headers));
        Self { stream, place, seen: 0, begun: true, clock, patience, stalled: None }
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
        let rest = self.patience.rest;
        let clock = self.stalled.get_or_insert_with(|| Box::pin(sleep(rest)));
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
        let turns = self.place.turns().count();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if turns % 2 == 1 {
            return read;
        }
        if turns != self.seen {
            (self.seen, self.begun) = (turns, false);
            self.place.mark();
            let rest = self.patience.rest;
            self.wait(rest);
        }
        match read {
            Poll::Ready(read) => {
                if !self.begun {
                    self.begun = true;
                    self.place.mark();
                    let headers = self.patience.headers;
                    self.wait(headers);
                }
                Poll::Ready(read)
            }
            Poll::Pending if self.place.poll_leave(context).is_ready() => {
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
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

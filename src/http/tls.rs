//! TLS around a connection.
//!
//! The handshake is made as the first part of reading, not while accepting: so a client that is slow or silent holds up nobody but
//! itself, and the connection's clock for headers bounds it too. Only HTTP/1.1 is offered: what bounds connections counts one
//! request on each.

use std::{
    fs, io,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{
    Accept, TlsAcceptor,
    rustls::{
        self, ServerConfig,
        crypto::ring,
        pki_types::{
            CertificateDer, PrivateKeyDer,
            pem::{self, PemObject},
        },
    },
    server::TlsStream,
};

use crate::{Error, Result};

/// The certificate and the key that the service shows.
#[derive(Clone)]
pub struct Tls(TlsAcceptor);

impl Tls {
    /// Reads PEM files: a certificate with those that lead to its root, and its key.
    pub fn read(certificate: &Path, key: &Path) -> Result<Self> {
        let chain = CertificateDer::pem_slice_iter(&bytes(certificate)?).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|_| damaged(certificate))?;
        if chain.is_empty() {
            return Err(Error::file(certificate, "no certificate in PEM"));
        }
        let secret = PrivateKeyDer::from_pem_slice(&bytes(key)?).map_err(|e| match e {
            pem::Error::NoItemsFound => Error::file(key, "no private key in PEM that is not encrypted"),
            _ => damaged(key),
        })?;
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, secret));
        let mut config = config.map_err(|e| match e {
            rustls::Error::InvalidCertificate(reason) => {
                Error::file(certificate, format!("no certificate for a server: {reason}"))
            }
            rustls::Error::InconsistentKeys(_) => {
                Error::file(key, format!("not the key of the certificate in {}", certificate.display()))
            }
            e => Error::file(key, e),
        })?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(Arc::new(config).into()))
    }
}

/// The parser's own message may quote the file.
fn damaged(path: &Path) -> Error {
    Error::file(path, "a section is not PEM")
}

fn bytes(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(Error::io(path))
}

/// What a client sends and gets, in the clear or not.
pub enum Stream {
    /// In the clear.
    Plain(TcpStream),
    /// Still in the handshake.
    Handshake(Box<Accept<TcpStream>>),
    /// Encrypted.
    Tls(Box<TlsStream<TcpStream>>),
    /// Not agreed upon.
    Failed,
}

impl Stream {
    /// Begins a connection; the handshake is made as it is read or written.
    pub fn new(stream: TcpStream, tls: Option<&Tls>) -> Self {
        match tls {
            Some(Tls(acceptor)) => Self::Handshake(Box::new(acceptor.accept(stream))),
            None => Self::Plain(stream),
        }
    }

    /// Goes through the handshake, and returns what is behind it.
    fn poll_open(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Pin<&mut dyn Bytes>>> {
        if let Self::Handshake(accept) = self {
            let (stream, result) = match ready!(Pin::new(accept).poll(context)) {
                Ok(stream) => (Self::Tls(Box::new(stream)), Ok(())),
                Err(error) => (Self::Failed, Err(error)),
            };
            *self = stream;
            result.inspect_err(|error| tracing::debug!(%error, "no TLS handshake"))?;
        }
        Poll::Ready(self.open().ok_or_else(|| io::ErrorKind::NotConnected.into()))
    }

    /// Returns what can be read and written by now.
    fn open(&mut self) -> Option<Pin<&mut dyn Bytes>> {
        match self {
            Self::Plain(stream) => Some(Pin::new(stream)),
            Self::Tls(stream) => Some(Pin::new(stream)),
            Self::Handshake(_) | Self::Failed => None,
        }
    }
}

/// Bytes both ways.
trait Bytes: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Bytes for T {}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_open(context))?.poll_read(context, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_open(context))?.poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_open(context))?.poll_write_vectored(context, parts)
    }

    /// Both kinds of streams are.
    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_open(context))?.poll_flush(context)
    }

    /// Does not wait for a handshake: there is nobody to say goodbye to.
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.open().map_or(Poll::Ready(Ok(())), |stream| stream.poll_shutdown(context))
    }
}

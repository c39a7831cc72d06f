//! The byte stream below the protocol: TCP, TLS over it, or a unix socket.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, BufReader, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use super::error::ServerError;
use crate::server::ServerAddress;

/// How long a server may take to accept a connection, and to finish logging us in.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection on which nothing has come for so long is asked whether the other end is there, and again each
/// [`KEEPALIVE_INTERVAL`].
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);

/// Between two such questions.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// Questions without an answer until the connection counts as lost.
const KEEPALIVE_PROBES: u32 = 6;

/// What was sent must have arrived at the other end in this time.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(90);

/// An open connection.
#[derive(Debug)]
pub(super) enum Transport {
    /// In the clear.
    Tcp(TcpStream),
    /// Under TLS.
    Tls(Box<TlsStream<BufReader<TcpStream>>>),
    /// Local.
    Socket(UnixStream),
}

impl Transport {
    /// Connects, without TLS yet.
    pub(super) async fn open(address: &ServerAddress) -> Result<Self, ServerError> {
        let attempt = async {
            match address {
                ServerAddress::Tcp { host, port } => {
                    let stream = TcpStream::connect((host.as_str(), *port)).await?;
                    stream.set_nodelay(true)?;
                    notice_silence(&stream)?;
                    Ok(Self::Tcp(stream))
                }
                ServerAddress::Socket(path) => Ok(Self::Socket(UnixStream::connect(path).await?)),
            }
        };
        let timed_out = || Err(io::Error::from(io::ErrorKind::TimedOut));
        timeout(CONNECT_TIMEOUT, attempt)
            .await
            .unwrap_or_else(|_| timed_out())
            .map_err(|source| ServerError::Unreachable { address: address.to_string(), source })
    }

    /// Whether nobody in between can read along: a password may travel in it.
    pub(super) fn is_private(&self) -> bool {
        match self {
            Self::Tcp(_) => false,
            Self::Tls(_) | Self::Socket(_) => true,
        }
    }
}

/// Lets the system end a connection whose other end is gone without a word.
fn notice_silence(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES)?;
    let milliseconds = u32::try_from(UNACKNOWLEDGED_MAX.as_millis()).unwrap_or(u32::MAX);
    Ok(sockopt::set_tcp_user_timeout(stream, milliseconds)?)
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_read(cx, buf),
            Self::Tls(s) => Pin::new(s).poll_read(cx, buf),
            Self::Socket(s) => Pin::new(s).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_write(cx, buf),
            Self::Tls(s) => Pin::new(s).poll_write(cx, buf),
            Self::Socket(s) => Pin::new(s).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_flush(cx),
            Self::Tls(s) => Pin::new(s).poll_flush(cx),
            Self::Socket(s) => Pin::new(s).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_shutdown(cx),
            Self::Tls(s) => Pin::new(s).poll_shutdown(cx),
            Self::Socket(s) => Pin::new(s).poll_shutdown(cx),
        }
    }
}

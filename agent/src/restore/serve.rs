//! A MySQL replication source made of archived binlogs.
//!
//! A replica that connects gets, verbatim, the events of the transactions that are in the replay set and not in its
//! own, then heartbeats until the server is stopped. So the replica's own set decides what it gets, a dropped
//! connection costs nothing, and the replica stops at exactly the last transaction of the set.

mod artificial;
mod handshake;
mod packet;
mod session;
mod stream;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use highwater_binlog::{EventError, FrameError, GtidSet, ServerUuid};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

pub use handshake::ReplicaAccount;
use session::{Answer, COMMAND_MAX, Conversation, Identity};

use super::replay::ReplaySource;

/// A client that has not proven itself by then is cut off.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections at once: one replica has one, and a new one while the old one dies.
const CONNECTIONS_MAX: usize = 16;

/// Why serving a replica ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The connection, or a read from the archive.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The archived bytes are not a binlog.
    #[error("archived binlog")]
    Frame(#[from] FrameError),
    /// An archived event is not what it says.
    #[error("archived event")]
    Event(#[from] EventError),
    /// A binlog has no format description event.
    #[error("archived binlog has no format description")]
    NoFormatDescription,
    /// A transaction without GTID cannot be asked for.
    #[error("archived binlog has a transaction without gtid")]
    Anonymous,
    /// The segments lack transactions of the replay.
    #[error("archived binlogs lack {0}")]
    Incomplete(GtidSet),
    /// The replica would silently drop its "own" events.
    #[error("the replica's server_id {0} is also that of archived events, which it would skip")]
    ServerIdClash(u32),
    /// Wrong user or password.
    #[error("access denied to a client of the replay")]
    AccessDenied,
    /// The replica is gone.
    #[error("the replica hung up")]
    HungUp,
    /// No certificate could be made.
    #[error("self-signed certificate: {0}")]
    Certificate(String),
}

impl ServeError {
    /// Whether trying again, as replicas do, cannot help.
    fn is_fatal(&self) -> bool {
        match self {
            Self::Io(_) | Self::AccessDenied | Self::HungUp => false,
            Self::Frame(_)
            | Self::Event(_)
            | Self::NoFormatDescription
            | Self::Anonymous
            | Self::Incomplete(_)
            | Self::ServerIdClash(_)
            | Self::Certificate(_) => true,
        }
    }
}

/// What is replayed: transactions, and where their bytes are.
#[derive(Clone)]
pub struct Replay {
    /// The binlogs.
    pub source: Arc<dyn ReplaySource>,
    /// Exactly what may be sent.
    pub gtids: GtidSet,
}

/// Who the server says it is.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Who may log in.
    pub account: ReplicaAccount,
    /// Our `server_id`; must differ from the replica's.
    pub server_id: u32,
    /// Our `server_uuid`; must differ from the replica's.
    pub server_uuid: ServerUuid,
    /// Our `version`: that of the server that wrote the binlogs.
    pub server_version: String,
}

/// How far serving has come.
#[derive(Debug, Clone, Default)]
pub struct ServeState {
    /// Replicas that logged in and asked for the stream, reconnections included.
    pub streams: u64,
    /// Bytes of events sent.
    pub bytes_sent: u64,
    /// Transactions sent.
    pub transactions_sent: u64,
    /// Whether the present replica has been sent everything.
    pub caught_up: bool,
    /// What makes it pointless to go on.
    pub failure: Option<String>,
    /// Why the last connection ended, when it was not fatal.
    pub last_error: Option<String>,
}

/// Tells the world about `ServeState`.
#[derive(Debug, Clone)]
struct Progress(watch::Sender<ServeState>);

impl Progress {
    fn sent(&self, bytes: usize, transactions: u64) {
        self.0.send_modify(|state| {
            state.bytes_sent += u64::try_from(bytes).unwrap_or_default();
            state.transactions_sent += transactions;
        });
    }

    fn caught_up(&self) {
        self.0.send_modify(|state| state.caught_up = true);
    }

    fn began(&self) {
        self.0.send_modify(|state| {
            state.streams += 1;
            state.caught_up = false;
        });
    }

    fn ended(&self, error: &ServeError) {
        let text = chain(error);
        // Replicas hang up without a word when they are told to stop, and come back by themselves otherwise.
        if error.is_fatal() {
            tracing::error!(error = %text, "replay connection ended");
        } else {
            tracing::debug!(error = %text, "replay connection ended");
        }
        self.0.send_modify(|state| {
            if error.is_fatal() {
                state.failure.get_or_insert(text);
            } else {
                state.last_error = Some(text);
            }
        });
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// A running server.
#[derive(Debug)]
pub struct BinlogServer {
    address: SocketAddr,
    state: watch::Receiver<ServeState>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl BinlogServer {
    /// Begins to listen.
    ///
    /// # Errors
    /// The address cannot be listened on, or no certificate could be made.
    pub async fn start(options: ServeOptions, replay: Replay) -> Result<Self, ServeError> {
        let listener = TcpListener::bind(options.listen).await?;
        let address = listener.local_addr()?;
        let (sender, state) = watch::channel(ServeState::default());
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared {
            tls: handshake::self_signed_tls()?,
            options,
            replay,
            progress: Progress(sender),
            stop: stop.clone(),
            streams: Mutex::new(HashMap::new()),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, shared));
        Ok(Self { address, state, stop, tasks })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How far it has come; changes can be waited for.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<ServeState> {
        self.state.clone()
    }

    /// Closes every connection and stops listening.
    pub async fn stop(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

/// What all connections share.
struct Shared {
    options: ServeOptions,
    replay: Replay,
    tls: TlsAcceptor,
    progress: Progress,
    stop: CancellationToken,
    /// The present stream of each replica, by its uuid: a new one ends the old one, as on a MySQL source.
    streams: Mutex<HashMap<String, CancellationToken>>,
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    let mut connection_id = 0u32;
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((tcp, _)) => {
                    connection_id = connection_id.wrapping_add(1);
                    connections.spawn(serve(tcp, shared.clone(), connection_id));
                }
                Err(error) => {
                    tracing::warn!(%error, "replay connection not accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
    while connections.join_next().await.is_some() {}
}

async fn serve(tcp: TcpStream, shared: Arc<Shared>, connection_id: u32) {
    tokio::select! {
        () = shared.stop.cancelled() => {}
        result = converse(tcp, &shared, connection_id) => if let Err(error) = result {
            shared.progress.ended(&error);
        },
    }
}

/// One connection: login, questions, stream.
async fn converse(tcp: TcpStream, shared: &Shared, connection_id: u32) -> Result<(), ServeError> {
    tcp.set_nodelay(true)?;
    let options = &shared.options;
    let login = handshake::login(tcp, &shared.tls, &options.account, &options.server_version, connection_id);
    let timeout = |_| io::Error::new(io::ErrorKind::TimedOut, "no login from a client of the replay");
    let mut packets = tokio::time::timeout(LOGIN_TIMEOUT, login).await.map_err(timeout)??;
    let mut talk = Conversation::new(Identity {
        server_id: options.server_id,
        uuid: options.server_uuid,
        version: options.server_version.clone(),
    });
    loop {
        let command = packets.read_command(COMMAND_MAX).await?;
        match talk.answer(&command, SystemTime::now()) {
            Answer::Quit => return Ok(()),
            Answer::Packets(answer) => {
                for payload in answer {
                    packets.write_joined(&payload, &[]).await?;
                }
                packets.flush().await?;
            }
            Answer::Stream(request) => {
                if request.server_id == options.server_id {
                    return Err(ServeError::ServerIdClash(request.server_id));
                }
                let stop = shared.stop.child_token();
                let replica = talk.replica_uuid.take().unwrap_or_else(|| request.server_id.to_string());
                let previous = {
                    let mut streams = shared.streams.lock().unwrap_or_else(PoisonError::into_inner);
                    streams.insert(replica, stop.clone())
                };
                if let Some(previous) = previous {
                    previous.cancel();
                }
                shared.progress.began();
                let period = talk.heartbeat;
                let (replay, progress) = (&shared.replay, &shared.progress);
                return stream::stream(packets, request, period, options.server_id, replay, progress, &stop).await;
            }
        }
    }
}

//! A TCP proxy before a MySQL server that records the replication stream and breaks it on demand.
//!
//! It reads no more of the protocol than where a client's packet begins, to see the dump command; so the connection must be
//! without TLS. Bytes of a stream are counted from the answer to that command.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

/// `COM_BINLOG_DUMP` and `COM_BINLOG_DUMP_GTID` (`include/my_command.h`).
const DUMP_COMMANDS: [u8; 2] = [0x12, 0x1e];

/// How often a thread that waits for bytes looks whether it is to end.
const POLL: Duration = Duration::from_millis(20);

/// What happens to a replication stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// After so many bytes the client gets an end of file.
    Close(u64),
    /// After so many bytes the client gets a reset.
    Reset(u64),
    /// After so many bytes nothing comes any more, and nobody says so.
    HalfOpen(u64),
    /// Lowest bit of this byte changed.
    Flip(u64),
    /// After so many bytes every further byte takes this long.
    Trickle(u64, Duration),
}

#[derive(Debug)]
struct Shared {
    upstream: AtomicU16,
    ended: AtomicBool,
    faults: Mutex<VecDeque<Fault>>,
    stream: Mutex<Vec<u8>>,
    dumps: AtomicUsize,
    struck: AtomicUsize,
    /// Connections forwarded now.
    open: AtomicUsize,
    /// The way is gone: nothing is forwarded, in either direction, and new connections are not answered.
    silent: AtomicBool,
}

/// The proxy. Ends on drop.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

/// One forwarded connection.
struct Link {
    shared: Arc<Shared>,
    client: TcpStream,
    server: TcpStream,
    ended: AtomicBool,
    /// Whether the dump command went by.
    dumping: AtomicBool,
    fault: Mutex<Option<Fault>>,
}

impl Proxy {
    /// Listens on a port of its own and forwards to one of this machine.
    pub fn start(upstream: u16) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let port = listener.local_addr()?.port();
        listener.set_nonblocking(true)?;
        let shared = Arc::new(Shared {
            upstream: AtomicU16::new(upstream),
            ended: AtomicBool::new(false),
            faults: Mutex::default(),
            stream: Mutex::default(),
            dumps: AtomicUsize::new(0),
            struck: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            silent: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            while !accepting.ended.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((client, _)) => {
                        let shared = Arc::clone(&accepting);
                        thread::spawn(move || forward(shared, client));
                    }
                    Err(_) => thread::sleep(Duration::from_millis(2)),
                }
            }
        });
        Ok(Self { port, shared })
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Forwards new connections to another port.
    pub fn redirect(&self, upstream: u16) {
        self.shared.upstream.store(upstream, Ordering::Relaxed);
    }

    /// The next replication stream without a fault of its own meets this one.
    pub fn plan(&self, fault: Fault) {
        lock(&self.shared.faults).push_back(fault);
    }

    /// Whether every planned fault has happened.
    #[must_use]
    pub fn is_done(&self) -> bool {
        lock(&self.shared.faults).is_empty()
    }

    /// Faults that happened.
    #[must_use]
    pub fn struck(&self) -> usize {
        self.shared.struck.load(Ordering::SeqCst)
    }

    /// Replication streams that were asked for.
    #[must_use]
    pub fn dumps(&self) -> usize {
        self.shared.dumps.load(Ordering::SeqCst)
    }

    /// Connections that are open now.
    #[must_use]
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// From now on nothing is forwarded and nothing is said; or it is again, for new connections.
    pub fn silence(&self, silent: bool) {
        self.shared.silent.store(silent, Ordering::SeqCst);
    }

    /// All bytes that the newest replication stream has sent.
    #[must_use]
    pub fn recorded(&self) -> Vec<u8> {
        lock(&self.shared.stream).clone()
    }

    /// Waits until so many faults have happened.
    pub fn wait_until_struck(&self, count: usize, limit: Duration) -> Result<()> {
        let started = Instant::now();
        while self.struck() < count {
            ensure!(started.elapsed() < limit, "only {} of {count} faults happened in {limit:?}", self.struck());
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn forward(shared: Arc<Shared>, client: TcpStream) {
    while shared.silent.load(Ordering::SeqCst) && !shared.ended.load(Ordering::Relaxed) {
        thread::sleep(POLL);
    }
    // The client's end is closed with ours: the server is not there.
    let Ok(server) = TcpStream::connect(("127.0.0.1", shared.upstream.load(Ordering::Relaxed))) else { return };
    let ready = [&client, &server]
        .into_iter()
        .all(|end| end.set_nonblocking(false).and(end.set_read_timeout(Some(POLL))).and(end.set_nodelay(true)).is_ok());
    if !ready {
        return;
    }
    shared.open.fetch_add(1, Ordering::SeqCst);
    let link = Link {
        shared: Arc::clone(&shared),
        client,
        server,
        ended: AtomicBool::new(false),
        dumping: AtomicBool::new(false),
        fault: Mutex::new(None),
    };
    thread::scope(|scope| {
        scope.spawn(|| link.to_server());
        link.to_client();
    });
    shared.open.fetch_sub(1, Ordering::SeqCst);
}

impl Link {
    fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed) || self.shared.ended.load(Ordering::Relaxed)
    }

    /// Reads what has come; `None` at the end.
    fn read(&self, mut from: &TcpStream, buffer: &mut [u8]) -> Option<usize> {
        while !self.is_ended() {
            if self.shared.silent.load(Ordering::SeqCst) {
                thread::sleep(POLL);
                continue;
            }
            match from.read(buffer) {
                Ok(0) => return None,
                Ok(count) => return Some(count),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => return None,
            }
        }
        None
    }

    fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    fn to_server(&self) {
        let mut buffer = [0; 16 << 10];
        let mut packets = Packets::default();
        while let Some(count) = self.read(&self.client, &mut buffer) {
            if packets.find_dump(&buffer[..count]) {
                lock(&self.shared.stream).clear();
                *lock(&self.fault) = lock(&self.shared.faults).pop_front();
                self.dumping.store(true, Ordering::SeqCst);
                self.shared.dumps.fetch_add(1, Ordering::SeqCst);
            }
            if (&self.server).write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        let _ = self.server.shutdown(Shutdown::Write);
    }

    fn to_client(&self) {
        let mut buffer = [0; 16 << 10];
        let mut sent = 0u64;
        while let Some(count) = self.read(&self.server, &mut buffer) {
            let bytes = &mut buffer[..count];
            let goes_on = match self.dumping.load(Ordering::SeqCst) {
                false => (&self.client).write_all(bytes).is_ok(),
                true => {
                    let begun = sent;
                    sent += count as u64;
                    self.pass(bytes, begun)
                }
            };
            if !goes_on {
                break;
            }
        }
        self.end();
    }

    /// Sends bytes of a stream that begin at this offset of it, or does to them what was planned; false ends the link.
    fn pass(&self, bytes: &mut [u8], begun: u64) -> bool {
        lock(&self.shared.stream).extend_from_slice(bytes);
        let fault = lock(&self.fault).clone();
        let Some(fault) = fault else { return (&self.client).write_all(bytes).is_ok() };
        let (Fault::Close(at) | Fault::Reset(at) | Fault::HalfOpen(at) | Fault::Flip(at) | Fault::Trickle(at, _)) =
            fault;
        let end = begun + bytes.len() as u64;
        if end < at || (end == at && matches!(fault, Fault::Flip(_))) {
            return (&self.client).write_all(bytes).is_ok();
        }
        let first_time = at >= begun;
        if first_time {
            self.shared.struck.fetch_add(1, Ordering::SeqCst);
        }
        let split = at.saturating_sub(begun) as usize;
        if let (Fault::Flip(_), true) = (&fault, first_time) {
            bytes[split] ^= 1;
            return (&self.client).write_all(bytes).is_ok();
        }
        if matches!(fault, Fault::Flip(_)) {
            return (&self.client).write_all(bytes).is_ok();
        }
        let (before, after) = bytes.split_at(split);
        if (&self.client).write_all(before).is_err() {
            return false;
        }
        match fault {
            Fault::Close(_) => false,
            Fault::Reset(_) => {
                self.end();
                reset_on_close(&self.client);
                false
            }
            Fault::HalfOpen(_) => {
                while !self.is_ended() && !self.client_is_gone() {
                    thread::sleep(POLL);
                }
                false
            }
            Fault::Trickle(_, pause) => after.iter().all(|byte| {
                thread::sleep(pause);
                !self.is_ended() && (&self.client).write_all(std::slice::from_ref(byte)).is_ok()
            }),
            Fault::Flip(_) => true,
        }
    }

    fn client_is_gone(&self) -> bool {
        matches!(self.client.peek(&mut [0]), Ok(0)) || matches!(self.client.take_error(), Ok(Some(_)) | Err(_))
    }
}

/// The last close of this socket sends a reset instead of an end.
fn reset_on_close(socket: &TcpStream) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_io().build() else { return };
    let _inside = runtime.enter();
    let Ok(copy) = socket.try_clone() else { return };
    // Options belong to the socket, not to this copy; tokio takes none that blocks.
    let _ = copy.set_nonblocking(true);
    if let Ok(copy) = tokio::net::TcpStream::from_std(copy) {
        let _ = copy.set_zero_linger();
    }
}

/// Where a client's packets begin: 3 bytes length, 1 byte sequence number, then the command.
#[derive(Debug, Default)]
struct Packets {
    header: Vec<u8>,
    rest: usize,
}

impl Packets {
    /// Whether these next bytes have a dump command.
    fn find_dump(&mut self, bytes: &[u8]) -> bool {
        let mut found = false;
        for byte in bytes {
            if self.rest > 0 {
                self.rest -= 1;
                continue;
            }
            self.header.push(*byte);
            if self.header.len() < 4 {
                continue;
            }
            let length =
                usize::from(self.header[0]) | usize::from(self.header[1]) << 8 | usize::from(self.header[2]) << 16;
            if self.header.len() == 4 && length > 0 {
                continue;
            }
            found |= self.header.get(4).is_some_and(|command| self.header[3] == 0 && DUMP_COMMANDS.contains(command));
            self.rest = length.saturating_sub(1);
            self.header.clear();
        }
        found
    }
}

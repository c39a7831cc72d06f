//! How the bytes of a dump's files cross between async code, which talks to servers, and blocking code, which seals and
//! stores.

use std::io::{self, Read, Write};
use std::sync::Arc;

use highwater_catalog::{Dump, DumpFile, DumpFileKind};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};

use super::error::DumpError;
use crate::archive::{Archive, DumpWriter};
use crate::store::StoreError;

/// Pieces of a file that may wait between the server and the store.
const QUEUE_PIECES: usize = 4;

/// Bytes read from a stored file at once.
const PIECE_BYTES: u64 = 256 << 10;

/// The files of a new dump, written one after the other.
pub(super) struct FileWriter {
    dump: DumpWriter,
    open: Option<OpenFile>,
}

struct OpenFile {
    name: String,
    pieces: mpsc::Sender<Piece>,
    /// Without a file when the writer of pieces went away before the end.
    stored: JoinHandle<Result<Option<DumpFile>, DumpError>>,
}

enum Piece {
    Bytes(Vec<u8>),
    End(DumpFileKind),
}

impl FileWriter {
    pub(super) fn new(dump: DumpWriter) -> Self {
        Self { dump, open: None }
    }

    /// Begins a file. One that is open is given up.
    pub(super) fn begin(&mut self, name: &str) {
        let (pieces, receiver) = mpsc::channel(QUEUE_PIECES);
        let (dump, file) = (self.dump.clone(), name.to_owned());
        let stored = spawn_blocking(move || store(&dump, &file, receiver));
        self.open = Some(OpenFile { name: name.to_owned(), pieces, stored });
    }

    /// Adds bytes; waits while the store is behind.
    pub(super) async fn write(&mut self, bytes: Vec<u8>) -> Result<(), DumpError> {
        self.send(Piece::Bytes(bytes)).await
    }

    /// Ends the file; it is stored when this returns.
    pub(super) async fn finish(&mut self, kind: DumpFileKind) -> Result<DumpFile, DumpError> {
        self.send(Piece::End(kind)).await?;
        match self.open.take() {
            Some(open) => open.end().await,
            None => Err(DumpError::NoFile),
        }
    }

    async fn send(&mut self, piece: Piece) -> Result<(), DumpError> {
        let Some(open) = &mut self.open else { return Err(DumpError::NoFile) };
        if open.pieces.send(piece).await.is_ok() {
            return Ok(());
        }
        // The storing side gave up; its own error says why.
        match self.open.take() {
            Some(open) => open.end().await.and(Err(DumpError::NoFile)),
            None => Err(DumpError::NoFile),
        }
    }
}

impl OpenFile {
    async fn end(self) -> Result<DumpFile, DumpError> {
        let Self { name, pieces, stored } = self;
        drop(pieces);
        match stored.await {
            Ok(stored) => stored?.ok_or(DumpError::NoFile),
            Err(err) => Err(DumpError::Seal { file: name, source: err.into() }),
        }
    }
}

fn store(dump: &DumpWriter, name: &str, mut receiver: mpsc::Receiver<Piece>) -> Result<Option<DumpFile>, DumpError> {
    let stored = |source| DumpError::Write { file: name.to_owned(), source };
    let sealed = |error: io::Error| match error.downcast::<StoreError>() {
        Ok(error) => stored(error.into()),
        Err(source) => DumpError::Seal { file: name.to_owned(), source },
    };
    let mut file = dump.create_file(name).map_err(stored)?;
    while let Some(piece) = receiver.blocking_recv() {
        match piece {
            Piece::Bytes(bytes) => file.write_all(&bytes).map_err(sealed)?,
            Piece::End(kind) => return file.finish(kind).map(Some).map_err(stored),
        }
    }
    Ok(None)
}

/// A stored file's bytes, read ahead on a blocking thread. Damage shows as an error before the end.
pub(super) fn read_ahead(archive: &Archive, dump: &Arc<Dump>, file: &DumpFile) -> mpsc::Receiver<io::Result<Vec<u8>>> {
    let (sender, receiver) = mpsc::channel(QUEUE_PIECES);
    let (archive, dump, file) = (archive.clone(), Arc::clone(dump), file.clone());
    // Ends by itself: with the file, or at the first piece that nobody takes.
    let _reading = spawn_blocking(move || {
        let read = || -> io::Result<()> {
            let mut reader = archive.read_dump_file(&dump, &file).map_err(io::Error::other)?;
            loop {
                let mut piece = Vec::new();
                reader.by_ref().take(PIECE_BYTES).read_to_end(&mut piece)?;
                if piece.is_empty() || sender.blocking_send(Ok(piece)).is_err() {
                    return Ok(());
                }
            }
        };
        if let Err(err) = read() {
            // Nobody listens when the load was given up.
            let _ = sender.blocking_send(Err(err));
        }
    });
    receiver
}

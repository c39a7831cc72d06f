//! Stdout, which takes nothing back: what is not yet known to be whole is held.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};

use super::Sink;
use crate::failure::Failure;

/// Bytes of an unfinished transaction held in memory; more of it goes to an unnamed temporary file.
const HELD_MAX: usize = 16 << 20;

/// Writes whole transactions to stdout, or to another place that takes nothing back.
pub(crate) struct StdoutOutput<W = std::io::Stdout> {
    out: W,
    /// Stream offset of the first byte held.
    offset: u64,
    /// The first bytes held, if they are many.
    spilled: Option<Spilled>,
    /// The bytes held after those.
    pieces: VecDeque<Vec<u8>>,
    /// How many bytes of the first piece are written already.
    written: usize,
    held: usize,
}

/// Bytes in a file without a name.
struct Spilled {
    file: File,
    from: u64,
    to: u64,
}

impl StdoutOutput {
    /// The process's standard output.
    pub(crate) fn new() -> Self {
        Self::to(std::io::stdout())
    }
}

impl<W: Write> StdoutOutput<W> {
    fn to(out: W) -> Self {
        Self { out, offset: 0, spilled: None, pieces: VecDeque::new(), written: 0, held: 0 }
    }

    /// Everything released is all there is to be.
    pub(crate) fn finish(mut self) -> Result<(), Failure> {
        self.out.flush().map_err(|error| Failure::io("stdout", &error))
    }

    fn write(&mut self, upto: u64) -> std::io::Result<()> {
        if let Some(spilled) = &mut self.spilled {
            let count = upto.saturating_sub(self.offset).min(spilled.to - spilled.from);
            spilled.file.seek(SeekFrom::Start(spilled.from))?;
            std::io::copy(&mut Read::take(&mut spilled.file, count), &mut self.out)?;
            spilled.from += count;
            self.offset += count;
            if spilled.from < spilled.to {
                return Ok(());
            }
            self.spilled = None;
        }
        while let Some(piece) = self.pieces.front() {
            let rest = piece.get(self.written..).unwrap_or_default();
            let count = usize::try_from(upto.saturating_sub(self.offset)).unwrap_or(usize::MAX).min(rest.len());
            self.out.write_all(rest.get(..count).unwrap_or_default())?;
            self.offset += count as u64;
            self.written += count;
            self.held -= count;
            if self.written < piece.len() {
                return Ok(());
            }
            self.pieces.pop_front();
            self.written = 0;
        }
        Ok(())
    }

    fn spill(&mut self) -> std::io::Result<()> {
        let spilled = match &mut self.spilled {
            Some(spilled) => spilled,
            None => self.spilled.insert(Spilled { file: tempfile::tempfile()?, from: 0, to: 0 }),
        };
        spilled.file.seek(SeekFrom::Start(spilled.to))?;
        for piece in self.pieces.drain(..) {
            let rest = piece.get(self.written..).unwrap_or_default();
            spilled.file.write_all(rest)?;
            spilled.to += rest.len() as u64;
            self.written = 0;
        }
        self.held = 0;
        Ok(())
    }
}

impl<W: Write> Sink for StdoutOutput<W> {
    fn prefix(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.out.write_all(bytes).map_err(|error| Failure::io("stdout", &error))
    }

    fn accept(&mut self, offset: u64, piece: Vec<u8>) -> Result<Option<Vec<u8>>, Failure> {
        if self.pieces.is_empty() && self.spilled.is_none() {
            self.offset = offset;
        }
        self.held += piece.len();
        self.pieces.push_back(piece);
        Ok(None)
    }

    fn release(&mut self, offset: u64) -> Result<(), Failure> {
        self.write(offset).map_err(|error| Failure::io("stdout", &error))?;
        if self.held > HELD_MAX {
            self.spill().map_err(|error| {
                Failure::io("temporary file", &error).hint(
                    "a transaction of this file is held there until it is whole; give a folder in TMPDIR, or -o FILE",
                )
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stream whose transactions end at `ends`, in pieces of a MiB; what is kept is exactly what was released.
    fn run(len: usize, ends: &[usize]) -> (Vec<u8>, Vec<u8>) {
        let stream: Vec<u8> = (0..len).map(|i| (i / 7 + i / 1009) as u8).collect();
        let mut out = Vec::new();
        let mut sink = StdoutOutput::to(&mut out);
        let mut offset = 0;
        for piece in stream.chunks(1 << 20) {
            sink.accept(offset as u64, piece.to_vec()).unwrap();
            offset += piece.len();
            let safe = ends.iter().copied().filter(|end| *end <= offset).max().unwrap_or(0);
            sink.release(safe as u64).unwrap();
        }
        sink.finish().unwrap();
        let kept = ends.iter().copied().filter(|end| *end <= len).max().unwrap_or(0);
        (out, stream[..kept].to_vec())
    }

    #[test]
    fn only_what_was_released_is_written_however_long_it_was_held() {
        let mib = 1 << 20;
        for ends in [
            vec![5, 10, mib - 1, mib, mib + 7],
            vec![30 * mib + 3],
            vec![9, 20 * mib, 20 * mib + 5, 40 * mib - 1],
            vec![18 * mib + 1, 19 * mib, 39 * mib],
            vec![],
        ] {
            let (out, kept) = run(41 * mib + 11, &ends);
            assert!(out == kept, "{ends:?}: {} of {}", out.len(), kept.len());
        }
    }
}

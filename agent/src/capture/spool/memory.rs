//! Memory for what waits for the store without having been on the disk.

use std::collections::VecDeque;
use std::io::{self, BufRead, Read};
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

use crate::seal::FRAME_BYTES;

/// Consecutive bytes in memory.
pub(super) type Pages = VecDeque<Arc<Page>>;

/// Bytes of a page: what is compressed in one go is in one piece.
const PAGE_BYTES: usize = 8 * FRAME_BYTES;

/// What is in memory of a stretch.
#[derive(Debug)]
pub(super) struct Held {
    /// The binlog's format description event, which its file will begin with.
    description: Vec<u8>,
    /// Its bytes from its start on.
    pages: Pages,
    /// Those behind them, which are being added.
    last: Page,
    /// How many there are.
    bytes: u64,
    memory: Memory,
}

/// Pages that are used again: memory that the system has to clear first costs more than a copy.
#[derive(Debug, Clone, Default)]
pub(super) struct Memory(Arc<Mutex<Vec<Vec<u8>>>>);

/// Some bytes, in memory that is used again when nobody needs them any more. The default has no room.
#[derive(Debug, Default)]
pub(super) struct Page {
    bytes: Vec<u8>,
    memory: Memory,
}

impl Held {
    /// Holds nothing yet.
    pub(super) fn new(description: Vec<u8>, memory: Memory) -> Self {
        Self { description, pages: Pages::new(), last: Page::default(), bytes: 0, memory }
    }

    /// How many bytes there are.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Memory that it takes: whole pages.
    pub(super) fn memory(&self) -> u64 {
        let pages = self.pages.len() + usize::from(!self.last.is_empty());
        u64::try_from(pages.saturating_mul(PAGE_BYTES)).unwrap_or(u64::MAX)
    }

    /// The binlog's format description event, which the file will begin with.
    pub(super) fn description(&self) -> &[u8] {
        &self.description
    }

    /// Adds bytes.
    pub(super) fn add(&mut self, mut bytes: &[u8]) {
        self.bytes = self.bytes.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        while !bytes.is_empty() {
            if self.last.is_full() {
                let full = std::mem::replace(&mut self.last, self.memory.page());
                self.pages.extend((!full.is_empty()).then(|| Arc::new(full)));
            }
            bytes = self.last.add(bytes);
        }
    }

    /// Everything so far. What comes later goes into another page.
    pub(super) fn pages(&mut self) -> Pages {
        if !self.last.is_empty() {
            self.pages.push_back(Arc::new(std::mem::take(&mut self.last)));
        }
        self.pages.clone()
    }
}

impl Memory {
    /// An empty page.
    pub(super) fn page(&self) -> Page {
        let spare = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Page { bytes: spare.unwrap_or_else(|| Vec::with_capacity(PAGE_BYTES)), memory: self.clone() }
    }

    /// Gives what is not used back to the system.
    pub(super) fn release(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Page {
    /// Whether nothing can be added.
    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() == self.bytes.capacity()
    }

    /// Adds as many of the bytes as there is room for, and returns the others.
    pub(super) fn add<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let (fitting, others) = bytes.split_at(bytes.len().min(self.bytes.capacity() - self.bytes.len()));
        self.bytes.extend_from_slice(fitting);
        others
    }
}

impl Deref for Page {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        if bytes.capacity() > 0 {
            bytes.clear();
            self.memory.0.lock().unwrap_or_else(PoisonError::into_inner).push(bytes);
        }
    }
}

/// Reads consecutive pages.
#[derive(Debug)]
pub(in crate::capture) struct PageReader {
    pages: Pages,
    /// How much of the first one was read.
    read: usize,
    left: u64,
}

impl PageReader {
    /// Reads `len` bytes behind the first `skipped`.
    pub(super) fn new(mut pages: Pages, skipped: u64, len: u64) -> Self {
        let mut read = usize::try_from(skipped).unwrap_or(usize::MAX);
        while let Some(first) = pages.front().map(|page| page.len()).filter(|first| *first <= read) {
            read -= first;
            pages.pop_front();
        }
        Self { pages, read, left: len }
    }
}

impl BufRead for PageReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let rest = self.pages.front().and_then(|page| page.get(self.read..)).unwrap_or_default();
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(rest.len());
        Ok(&rest[..most])
    }

    fn consume(&mut self, count: usize) {
        self.read += count;
        self.left = self.left.saturating_sub(u64::try_from(count).unwrap_or(u64::MAX));
        if self.pages.front().is_some_and(|page| page.len() <= self.read) {
            (self.read, _) = (0, self.pages.pop_front());
        }
    }
}

impl Read for PageReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

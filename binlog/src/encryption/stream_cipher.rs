//! AES-256 in counter mode over a whole file, as fast as the processor can.
//!
//! Counter blocks are made and encrypted many at a time, so that the `aes` crate can use the widest instructions there
//! are, and from inside of its own functions, so that the compiler uses those for the rest as well. Making counters,
//! encrypting them and applying them alternate, so that the processor does all three at once. One block after the other, as
//! the `ctr` crate asks for them, takes more than twice the time.

use std::fmt;

use aes::Aes256;
use aes::cipher::array::Array;
use aes::cipher::consts::U16;
use aes::cipher::inout::InOut;
use aes::cipher::typenum::Unsigned;
use aes::cipher::{
    BlockCipherEncBackend, BlockCipherEncClosure, BlockCipherEncrypt, BlockSizeUser, KeyInit, ParBlocksSizeUser,
};
use highwater_keyring::FilePassword;
use sha2::{Digest, Sha512};
use zeroize::Zeroizing;

const BLOCK_LEN: usize = 16;

/// Blocks in the buffers: 4 KiB each, which stay in the fastest cache; a few times what any processor takes at once.
const BATCH_BLOCKS: usize = 256;

/// Bytes of the stack that making or using a cipher may have used: with AVX-512, `aes` copies the key's schedule there, which
/// begins with the key.
const STACK_BYTES: usize = 64 << 10;

/// Overwrites what a function left on the stack that was called just before.
#[inline(never)]
fn overwrite_stack() {
    let mut area = [0u8; STACK_BYTES];
    std::hint::black_box(&mut area);
}

/// The cipher of one encrypted binlog: AES-256 in counter mode, so that encrypting and decrypting are the same, any
/// offset can be reached at once, and a wrong password goes unnoticed here.
pub struct StreamCipher {
    /// In a box, so that moving this leaves no key behind.
    cipher: Box<Aes256>,
    /// The first half of every counter block, as a little-endian number; the other half counts blocks, big-endian.
    nonce: u64,
}

impl StreamCipher {
    /// Derives key and nonce from the password: SHA-512 gives the key (32 bytes) and the high half of the counter block
    /// (8 bytes); the low half counts blocks from 0 (`Aes_ctr_cipher::open` and `init_cipher`).
    #[must_use]
    pub fn new(password: &FilePassword) -> Self {
        let cipher = Self::derive(password);
        overwrite_stack();
        cipher
    }

    #[inline(never)]
    fn derive(password: &FilePassword) -> Self {
        let mut digest = Zeroizing::new([[0u8; 32]; 2]);
        let mut hash = Sha512::digest(password.expose());
        for (slot, byte) in digest.as_flattened_mut().iter_mut().zip(&hash) {
            *slot = *byte;
        }
        zeroize::Zeroize::zeroize(hash.as_mut_slice());
        let [key, rest] = &*digest;
        let nonce = rest.first_chunk().copied().unwrap_or_default();
        Self { cipher: Box::new(Aes256::new(key.into())), nonce: u64::from_le_bytes(nonce) }
    }

    /// Encrypts or decrypts `bytes`, which are those of the stream from `offset` on.
    pub fn apply(&self, offset: u64, bytes: &mut [u8]) {
        self.apply_from(offset, bytes);
        overwrite_stack();
    }

    #[inline(never)]
    fn apply_from(&self, offset: u64, bytes: &mut [u8]) {
        // 2^64 bytes are 2^60 blocks: the count never reaches the nonce.
        let keystream = Keystream { nonce: self.nonce, block: offset / 16, bytes };
        let within = usize::from(offset.to_le_bytes()[0] % 16);
        if within > 0 {
            return self.apply_within(within, keystream);
        }
        self.cipher.encrypt_with_backend(keystream);
    }

    /// Begins `within` a block: goes on with whole ones after it.
    fn apply_within(&self, within: usize, Keystream { nonce, block, bytes }: Keystream<'_>) {
        let (head, rest) = bytes.split_at_mut(bytes.len().min(BLOCK_LEN - within));
        let mut first = [0; BLOCK_LEN];
        if let Some(part) = first.get_mut(within..).and_then(|part| part.get_mut(..head.len())) {
            part.copy_from_slice(head);
        }
        self.cipher.encrypt_with_backend(Keystream { nonce, block, bytes: &mut first });
        if let Some(part) = first.get(within..).and_then(|part| part.get(..head.len())) {
            head.copy_from_slice(part);
        }
        self.cipher.encrypt_with_backend(Keystream { nonce, block: block + 1, bytes: rest });
    }
}

impl fmt::Debug for StreamCipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StreamCipher(..)")
    }
}

/// Bytes that begin with a block, and the number of that block.
struct Keystream<'a> {
    nonce: u64,
    block: u64,
    bytes: &'a mut [u8],
}

impl BlockSizeUser for Keystream<'_> {
    type BlockSize = U16;
}

impl BlockCipherEncClosure for Keystream<'_> {
    #[inline(always)]
    fn call<B: BlockCipherEncBackend<BlockSize = U16>>(self, backend: &B) {
        let Self { nonce, mut block, bytes } = self;
        let mut counters = [Block::default(); BATCH_BLOCKS];
        let used = bytes.len().div_ceil(BLOCK_LEN).min(BATCH_BLOCKS);
        for counter in counters.get_mut(..used).unwrap_or_default() {
            *counter = u128::from(nonce).to_le_bytes().into();
        }
        let mut keys = [Block::default(); BATCH_BLOCKS];
        for bytes in bytes.chunks_mut(BATCH_BLOCKS * BLOCK_LEN) {
            let blocks = bytes.len().div_ceil(BLOCK_LEN);
            let (counters, rest_counters) = groups::<B>(counters.get_mut(..blocks).unwrap_or_default());
            let (keys, rest_keys) = groups::<B>(keys.get_mut(..blocks).unwrap_or_default());
            let group_len = B::ParBlocksSize::USIZE * BLOCK_LEN;
            let (grouped, rest_bytes) = bytes.split_at_mut(bytes.len().min(keys.len() * group_len));
            let mut outputs = grouped.chunks_exact_mut(group_len);
            // While the processor encrypts one group, it has the counters of the next one to make and the one before to
            // apply: it does these three at once, and nothing is read that was written just before.
            if let Some(first) = counters.first_mut() {
                block = count(first, block);
            }
            for index in 0..keys.len() {
                if let Some(next) = counters.get_mut(index + 1) {
                    block = count(next, block);
                }
                if let (Some(counters), Some(keys)) = (counters.get(index), keys.get_mut(index)) {
                    backend.encrypt_par_blocks(InOut::from((counters, keys)));
                }
                if let Some(before) = index.checked_sub(1).and_then(|before| keys.get(before)) {
                    xor(outputs.next().unwrap_or_default(), before);
                }
            }
            if let Some(last) = keys.last() {
                let end = outputs.next();
                xor(end.unwrap_or_else(|| outputs.into_remainder()), last);
            }
            block = count(rest_counters, block);
            for (counter, key) in rest_counters.iter().zip(&mut *rest_keys) {
                backend.encrypt_block(InOut::from((counter, key)));
            }
            xor(rest_bytes, rest_keys);
        }
    }
}

type Block = Array<u8, U16>;

/// As many blocks as the processor takes at once, again and again, and those that are left.
#[inline(always)]
fn groups<B: ParBlocksSizeUser>(blocks: &mut [Block]) -> (&mut [Array<Block, B::ParBlocksSize>], &mut [Block]) {
    Array::slice_as_chunks_mut(blocks)
}

/// Writes the second half of the counter blocks from a number on, and returns the number behind them.
#[inline(always)]
fn count(blocks: &mut [Block], mut block: u64) -> u64 {
    for slot in blocks {
        if let Some(half) = slot.last_chunk_mut::<8>() {
            *half = block.to_be_bytes();
        }
        block = block.wrapping_add(1);
    }
    block
}

#[inline(always)]
fn xor(bytes: &mut [u8], keys: &[Block]) {
    let (whole, rest) = bytes.as_chunks_mut::<BLOCK_LEN>();
    let mut keys = keys.iter();
    for (bytes, key) in whole.iter_mut().zip(&mut keys) {
        *bytes = (u128::from_ne_bytes(*bytes) ^ u128::from_ne_bytes((*key).into())).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(keys.next().into_iter().flatten()) {
        *byte ^= *key;
    }
}

#[cfg(test)]
mod tests {
    use aes::cipher::{KeyIvInit, StreamCipher as _, StreamCipherSeek};
    use proptest::prelude::*;

    use super::*;

    fn keystream(offset: u64) -> String {
        let cipher = StreamCipher::new(&FilePassword::from_slice(&[0; 32]).unwrap());
        let mut bytes = [0; 16];
        cipher.apply(offset, &mut bytes);
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn the_keystream_is_the_known_one_at_every_known_offset() {
        assert_eq!(keystream(0), "5eab6133c7d639121d91a659eb90b6e4");
        assert_eq!(keystream(1 << 32), "7649b7b2ab8a2597124d91c2771ab3b8");
        assert_eq!(keystream(1 << 36), "33df26df6a7e77fceb877c6c14fbbbdf");
        assert_eq!(keystream((1 << 36) + 5), "7e77fceb877c6c14fbbbdf3fe63d6a61");
        assert_eq!(keystream(1 << 63), "8b90f6e8548c7e689c8e1b0f6fdebd11");
    }

    #[test]
    fn the_last_offset_of_all_does_not_overflow() {
        assert_eq!(keystream(u64::MAX).len(), 32);
    }

    #[test]
    fn debug_output_shows_no_key() {
        let cipher = StreamCipher::new(&FilePassword::from_slice(&[0; 32]).unwrap());
        assert_eq!(format!("{cipher:?}"), "StreamCipher(..)");
    }

    proptest! {
        #[test]
        fn pieces_of_any_size_give_the_bytes_of_the_whole(
            password: [u8; 32],
            start in 0u64..1 << 40,
            plain in prop::collection::vec(any::<u8>(), 0..300),
            cut in any::<prop::sample::Index>(),
        ) {
            let cipher = StreamCipher::new(&FilePassword::from_slice(&password).unwrap());
            let mut whole = plain.clone();
            cipher.apply(start, &mut whole);
            let cut = cut.index(plain.len() + 1);
            let mut pieces = plain.clone();
            let (left, right) = pieces.split_at_mut(cut);
            cipher.apply(start + left.len() as u64, right);
            cipher.apply(start, left);
            prop_assert_eq!(&pieces, &whole);
            cipher.apply(start, &mut whole);
            prop_assert_eq!(&whole, &plain);
        }

        /// Lengths around those of blocks, of what processors take at once and of batches.
        #[test]
        fn every_length_gives_what_the_ctr_crate_gives(
            password: [u8; 32],
            start in prop_oneof![0u64..100, (1u64 << 40) - 5000..1 << 40, Just((1 << 63) + 3)],
            len in prop_oneof![0usize..80, 120usize..140, 1000usize..1100, 4000usize..4200, 8000usize..9000],
        ) {
            let plain: Vec<u8> = (0..len).map(|i| (i * 7 + i / 251) as u8).collect();
            let mut ours = plain.clone();
            StreamCipher::new(&FilePassword::from_slice(&password).unwrap()).apply(start, &mut ours);
            let digest = Sha512::digest(password);
            let counter = [&digest[32..40], &[0; 8]].concat();
            let mut theirs = plain;
            let mut cipher = ctr::Ctr128BE::<Aes256>::new_from_slices(&digest[..32], &counter).unwrap();
            cipher.seek(start);
            cipher.apply_keystream(&mut theirs);
            prop_assert!(ours == theirs);
        }
    }
}

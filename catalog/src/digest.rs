//! BLAKE3 digests as values.

use std::fmt;
use std::str::FromStr;

use highwater_binlog::ParseError;

/// A BLAKE3 digest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Blake3Digest(pub [u8; 32]);

impl fmt::Display for Blake3Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Blake3Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Blake3Digest {
    type Err = ParseError;

    /// Reads 64 hexadecimal digits in lower case, as `b3sum` prints them.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let error = || ParseError::new("BLAKE3 digest", text);
        let hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
        if text.len() != 64 || !text.bytes().all(hex) {
            return Err(error());
        }
        let mut digest = [0u8; 32];
        for (i, byte) in digest.iter_mut().enumerate() {
            let pair = text.get(2 * i..2 * i + 2).ok_or_else(error)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| error())?;
        }
        Ok(Self(digest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_reads_what_it_prints_and_nothing_else() {
        let digest = Blake3Digest(std::array::from_fn(|i| u8::try_from(i * 7 % 256).unwrap()));
        assert_eq!(digest.to_string().parse(), Ok(digest));
        for wrong in ["", "00", &"+f".repeat(32), &"AB".repeat(32), &"g0".repeat(32), &"é".repeat(32)] {
            assert!(wrong.parse::<Blake3Digest>().is_err(), "{wrong}");
        }
    }
}

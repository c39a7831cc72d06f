//! Reading integers and pieces out of borrowed bytes; everything that would run past the end is `None`.

/// What is left to read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }

    /// Like `take`, for a length that came out of the bytes themselves.
    pub(crate) fn take_u64(&mut self, count: u64) -> Option<&'a [u8]> {
        self.take(usize::try_from(count).ok()?)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*taken)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A little-endian integer of `width` bytes, 8 at most.
    pub(crate) fn uint(&mut self, width: usize) -> Option<u64> {
        if width > 8 {
            return None;
        }
        let bytes = self.take(width)?;
        Some(bytes.iter().rev().fold(0, |value, byte| (value << 8) | u64::from(*byte)))
    }

    /// The length-encoded integer of the client protocol (`net_field_length_ll` in `mysys/pack.cc`); `None` for NULL too.
    pub(crate) fn length_encoded(&mut self) -> Option<u64> {
        match self.u8()? {
            251 | 255 => None,
            252 => self.uint(2),
            253 => self.uint(3),
            254 => self.uint(8),
            small => Some(u64::from(small)),
        }
    }

    /// The variable-length integer of `libs/mysql/serialization`: as many more bytes as the first one has trailing ones.
    pub(crate) fn serialized_uint(&mut self) -> Option<u64> {
        let first = self.u8()?;
        let more = first.trailing_ones();
        let low = u64::from(first).checked_shr(more + 1).unwrap_or(0);
        if more == 0 {
            return Some(low);
        }
        let high = self.uint(usize::try_from(more).ok()?)?;
        // 56 bits at most follow seven bytes, so nothing is shifted out; eight bytes stand alone.
        Some(low | (high << 7u32.saturating_sub(more)))
    }

    /// The signed form of `serialized_uint`, for values that cannot be negative.
    pub(crate) fn serialized_nonnegative(&mut self) -> Option<u64> {
        let coded = self.serialized_uint()?;
        (coded & 1 == 0).then_some(coded >> 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serialized_integers_of_the_server_documentation_are_read() {
        // libs/mysql/serialization/readme.md, there written most significant byte first.
        assert_eq!(Cursor::new(&[0b1111_1011, 0xff, 0b0000_0111]).serialized_uint(), Some(65535));
        assert_eq!(Cursor::new(&[0b1111_0011, 0xff, 0b0000_1111]).serialized_nonnegative(), Some(65535));
        assert_eq!(Cursor::new(&[0b1110_1011, 0xff, 0b0000_1111]).serialized_nonnegative(), None, "-65535");
    }

    #[test]
    fn serialized_integers_cover_all_widths() {
        for bits in 0..64u32 {
            for value in [1u64 << bits, (1u64 << bits) - 1, u64::MAX >> (63 - bits)] {
                let coded = serialized(value);
                let mut cursor = Cursor::new(&coded);
                assert_eq!(cursor.serialized_uint(), Some(value), "{coded:02x?}");
                assert!(cursor.is_empty());
                assert_eq!(Cursor::new(&coded[..coded.len() - 1]).serialized_uint(), None);
            }
        }
    }

    /// The encoder of `variable_length_integers.h`, for round trips.
    fn serialized(value: u64) -> Vec<u8> {
        let bits = 64 - value.leading_zeros();
        let count = ((bits * 575) >> 12) + 1;
        if count == 9 {
            let mut coded = vec![0xff];
            coded.extend(value.to_le_bytes());
            return coded;
        }
        let wide = (u128::from(value) << count) | ((1 << (count - 1)) - 1);
        wide.to_le_bytes()[..usize::try_from(count).unwrap()].to_vec()
    }

    #[test]
    fn length_encoded_integers_are_read() {
        assert_eq!(Cursor::new(&[250]).length_encoded(), Some(250));
        assert_eq!(Cursor::new(&[251]).length_encoded(), None);
        assert_eq!(Cursor::new(&[252, 1, 2]).length_encoded(), Some(0x0201));
        assert_eq!(Cursor::new(&[253, 1, 2, 3]).length_encoded(), Some(0x03_0201));
        assert_eq!(Cursor::new(&[254, 1, 0, 0, 0, 0, 0, 0, 0x80]).length_encoded(), Some((0x80 << 56) | 1));
        assert_eq!(Cursor::new(&[252, 1]).length_encoded(), None);
    }
}

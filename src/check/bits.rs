//! A set of small numbers, one bit each: which blocks somebody owns.

/// A set of numbers below a bound.
pub struct Bits {
    words: Vec<u64>,
    len: u64,
}

impl Bits {
    /// An empty set of numbers below `len`.
    pub fn new(len: u64) -> Self {
        Bits {
            words: vec![0; len.div_ceil(64) as usize],
            len,
        }
    }

    /// Adds `first .. first + count` (cut at the bound); answers how many of
    /// them were in it already, and the first of those.
    pub fn add(&mut self, first: u64, count: u64) -> Option<(u64, u64)> {
        let end = first.saturating_add(count).min(self.len);
        let mut at = first;
        let mut again = None;
        while at < end {
            let (word, low) = ((at / 64) as usize, at % 64);
            let high = (end - at + low).min(64);
            let mask = (u64::MAX >> (64 - (high - low))) << low;
            let both = self.words[word] & mask;
            if both != 0 {
                let (start, n) = again.unwrap_or((at - low + u64::from(both.trailing_zeros()), 0));
                again = Some((start, n + u64::from(both.count_ones())));
            }
            self.words[word] |= mask;
            at += high - low;
        }
        again
    }

    /// The 64 bits from `n` on, zeros past the bound.
    pub fn word(&self, n: u64) -> u64 {
        let (word, low) = ((n / 64) as usize, n % 64);
        let here = self.words.get(word).copied().unwrap_or(0) >> low;
        match low {
            0 => here,
            _ => here | self.words.get(word + 1).copied().unwrap_or(0) << (64 - low),
        }
    }
}

/// The 64 bits from bit `n` (a multiple of 8) of a bitmap on disk on, zeros past its end.
pub fn disk_word(bitmap: &[u8], n: u64) -> u64 {
    let at = (n / 8) as usize;
    let mut bytes = [0; 8];
    if let Some(rest) = bitmap.get(at..) {
        let n = rest.len().min(8);
        bytes[..n].copy_from_slice(&rest[..n]);
    }
    u64::from_le_bytes(bytes)
}

/// One bit of a bitmap on disk; false past its end.
pub fn disk_bit(bitmap: &[u8], n: u32) -> bool {
    bitmap
        .get(n as usize / 8)
        .is_some_and(|byte| byte >> (n % 8) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adding_twice_tells_where_and_how_many() {
        let mut bits = Bits::new(300);
        assert_eq!(bits.add(60, 10), None);
        assert_eq!(bits.add(100, 150), None);
        assert_eq!(bits.add(0, 300), Some((60, 160)));
        assert_eq!(bits.add(299, 9), Some((299, 1)));
    }

    #[test]
    fn words_cross_their_borders() {
        let mut bits = Bits::new(200);
        bits.add(63, 2);
        assert_eq!(bits.word(63), 3);
        assert_eq!(bits.word(8), 3 << 55);
        assert_eq!(bits.word(1000), 0);
        assert_eq!(disk_word(&[0, 0xff], 8), 0xff);
        assert!(disk_bit(&[0, 2], 9) && !disk_bit(&[0, 2], 16));
    }
}

//! Ranges of a block's bytes.

/// Ranges of a block, ascending as far as they come from a comparison, and
/// what stands there. Their bytes lie together: an operation makes many short
/// ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges {
    /// Offset in the block and length, each in bytes.
    spans: Vec<(u16, u32)>,
    bytes: Vec<u8>,
}

impl Ranges {
    /// None yet, but with room for so many.
    pub fn with_capacity(count: usize, bytes: usize) -> Self {
        Ranges {
            spans: Vec::with_capacity(count),
            bytes: Vec::with_capacity(bytes),
        }
    }

    /// Adds one, of no more than a block.
    pub fn push(&mut self, offset: u16, bytes: &[u8]) {
        self.spans.push((offset, bytes.len() as u32));
        self.bytes.extend_from_slice(bytes);
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Bytes of them all.
    pub fn total(&self) -> usize {
        self.bytes.len()
    }

    /// Each one's offset, and what stands there.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &[u8])> {
        let mut rest = &self.bytes[..];
        self.spans.iter().map(move |&(offset, len)| {
            let (bytes, behind) = rest.split_at(len as usize);
            rest = behind;
            (offset.into(), bytes)
        })
    }
}

impl<B: AsRef<[u8]>> FromIterator<(u16, B)> for Ranges {
    fn from_iter<I: IntoIterator<Item = (u16, B)>>(given: I) -> Self {
        let mut ranges = Ranges::default();
        for (offset, bytes) in given {
            ranges.push(offset, bytes.as_ref());
        }
        ranges
    }
}

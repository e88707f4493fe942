//! A block's bytes, and what was found out about them.

use std::cell::RefCell;
use std::mem;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A block's bytes, shared with the cache: never changed in place while anyone
/// else holds them.
#[derive(Clone, Default)]
pub struct Block(Arc<Page>);

#[derive(Default)]
struct Page {
    bytes: Box<[u8]>,
    /// What the bytes have passed; 0: nothing yet. (No lock and no model of
    /// one: whoever misses the mark judges once more.)
    passed: AtomicU64,
}

impl Block {
    /// Judges the bytes, unless they have passed the same judgement already.
    /// `mark` names it, and all that it depends on besides the bytes; not 0.
    ///
    /// Whoever changes a block that has passed sees to it that it would pass
    /// again (seals it): later versions keep the mark. What comes from the image
    /// has none.
    pub fn once<E>(&self, mark: u64, judge: impl FnOnce(&[u8]) -> Result<(), E>) -> Result<(), E> {
        if self.0.passed.load(Ordering::Relaxed) != mark {
            judge(self)?;
            self.0.passed.store(mark, Ordering::Relaxed);
        }
        Ok(())
    }

    /// For changing; a copy, if anyone else holds it.
    pub fn make_mut(&mut self) -> &mut [u8] {
        &mut Arc::make_mut(&mut self.0).bytes
    }
}

/// So many buffers a thread keeps for its next versions of blocks: more than
/// one operation on metadata makes.
const SPARE: usize = 64;

thread_local! {
    /// Buffers of versions that nobody has any more. Every change makes a
    /// version and gives one up, and malloc(3) is slow with pages.
    static SPARES: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

impl Clone for Page {
    fn clone(&self) -> Self {
        let spare = SPARES.try_with(|spares| spares.borrow_mut().pop());
        let bytes = match spare.ok().flatten() {
            Some(mut spare) if spare.len() == self.bytes.len() => {
                spare.copy_from_slice(&self.bytes);
                spare
            }
            _ => self.bytes.clone(),
        };
        Page {
            bytes,
            passed: AtomicU64::new(self.passed.load(Ordering::Relaxed)),
        }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // (A thread that is ending has none.)
        let _ = SPARES.try_with(|spares| {
            let mut spares = spares.borrow_mut();
            if spares.len() < SPARE {
                spares.push(mem::take(&mut self.bytes));
            }
        });
    }
}

impl Deref for Block {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0.bytes
    }
}

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl<B: Into<Box<[u8]>>> From<B> for Block {
    fn from(bytes: B) -> Self {
        Block(Arc::new(Page {
            bytes: bytes.into(),
            passed: AtomicU64::new(0),
        }))
    }
}

impl PartialEq for Block {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl std::fmt::Debug for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Block({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_judged_once_and_again_by_another_judge() {
        let judged = |block: &Block, mark, verdict: Result<(), ()>| {
            let mut asked = false;
            let given = block.once(mark, |_| {
                asked = true;
                verdict
            });
            (asked, given)
        };
        let block = Block::from(vec![1; 1024]);
        assert_eq!(judged(&block, 7, Err(())), (true, Err(())));
        assert_eq!(judged(&block, 7, Ok(())), (true, Ok(())));
        let mut later = block.clone();
        later.make_mut()[0] = 2;
        for block in [&block, &later] {
            assert_eq!(judged(block, 7, Err(())), (false, Ok(())));
        }
        assert_eq!(judged(&later, 8, Err(())), (true, Err(())));
        assert_eq!(block[0], 1);
        let read_again = Block::from(vec![1; 1024]);
        assert_eq!(judged(&read_again, 7, Err(())), (true, Err(())));
    }
}

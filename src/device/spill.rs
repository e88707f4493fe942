//! Bytes put aside: in memory up to a limit, beyond it in a scratch file.

use std::io;
use std::sync::Arc;

use super::Disk;

/// Where bytes are put aside.
pub struct Spill {
    scratch: Arc<dyn Disk>,
    limit: usize,
    /// Bytes in memory.
    held: usize,
    /// Pieces in the scratch file, and where the next one goes. Room is
    /// reused only when the last piece has gone.
    spilled: usize,
    end: u64,
}

/// A piece that was put aside; give it back with [`Spill::release`].
#[derive(Debug)]
pub enum Aside {
    /// In memory.
    Memory(Box<[u8]>),
    /// In the scratch file.
    Scratch {
        /// From which byte on.
        at: u64,
        /// Bytes.
        len: usize,
    },
}

impl Aside {
    /// Bytes.
    pub fn len(&self) -> usize {
        match self {
            Aside::Memory(bytes) => bytes.len(),
            Aside::Scratch { len, .. } => *len,
        }
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Spill {
    /// Keeps up to `limit` bytes in memory; `scratch` is an empty file that
    /// nobody else uses.
    pub fn new(scratch: Arc<dyn Disk>, limit: usize) -> Self {
        Spill {
            scratch,
            limit,
            held: 0,
            spilled: 0,
            end: 0,
        }
    }

    /// Puts bytes aside.
    pub fn put(&mut self, bytes: &[u8]) -> io::Result<Aside> {
        if self.held + bytes.len() <= self.limit {
            self.held += bytes.len();
            return Ok(Aside::Memory(bytes.into()));
        }
        let at = self.end;
        self.scratch.write_at(bytes, at)?;
        self.end += bytes.len() as u64;
        self.spilled += 1;
        Ok(Aside::Scratch {
            at,
            len: bytes.len(),
        })
    }

    /// Fills `buf` from byte `from` of a piece on.
    pub fn read(&self, piece: &Aside, from: usize, buf: &mut [u8]) -> io::Result<()> {
        match piece {
            Aside::Memory(bytes) => buf.copy_from_slice(&bytes[from..from + buf.len()]),
            Aside::Scratch { at, .. } => self.scratch.read_at(buf, at + from as u64)?,
        }
        Ok(())
    }

    /// All bytes of a piece.
    pub fn bytes(&self, piece: &Aside) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; piece.len()];
        self.read(piece, 0, &mut bytes)?;
        Ok(bytes)
    }

    /// A piece is no longer needed.
    pub fn release(&mut self, piece: Aside) {
        match piece {
            Aside::Memory(bytes) => self.held -= bytes.len(),
            Aside::Scratch { .. } => {
                self.spilled -= 1;
                if self.spilled == 0 {
                    self.end = 0;
                    // A hint: what is not given back now is overwritten later.
                    let _ = self.scratch.set_len(0);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::MemoryDisk;
    use super::*;

    #[test]
    fn what_exceeds_the_limit_goes_to_the_scratch_file_and_comes_back() {
        let scratch = Arc::new(MemoryDisk::default());
        let mut spill = Spill::new(scratch.clone(), 10);
        let pieces: Vec<Aside> = [&b"eight by"[..], b"much longer", b"x", b"another long one"]
            .map(|bytes| spill.put(bytes).unwrap())
            .into();
        assert!(matches!(pieces[0], Aside::Memory(_)));
        assert!(matches!(pieces[1], Aside::Scratch { at: 0, len: 11 }));
        assert!(matches!(pieces[2], Aside::Memory(_)));
        assert!(matches!(pieces[3], Aside::Scratch { at: 11, len: 16 }));
        assert_eq!(spill.bytes(&pieces[3]).unwrap(), b"another long one");
        let mut middle = [0; 4];
        spill.read(&pieces[1], 5, &mut middle).unwrap();
        assert_eq!(&middle, b"long");
        pieces.into_iter().for_each(|piece| spill.release(piece));
        assert_eq!((scratch.len().unwrap(), spill.held, spill.end), (0, 0, 0));
    }
}

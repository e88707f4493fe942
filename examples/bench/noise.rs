//! Data that no disk can guess.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

const POOL: usize = 4 << 20;

/// Blocks of up to 1 MiB, hardly ever the same one twice.
pub struct Noise {
    pool: Vec<u8>,
    random: fastrand::Rng,
}

impl Noise {
    pub fn new(seed: u64) -> Noise {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut pool = vec![0; POOL];
        random.fill(&mut pool);
        Noise { pool, random }
    }

    pub fn block(&mut self, len: usize) -> &[u8] {
        let from = self.random.usize(..POOL - len);
        &self.pool[from..from + len]
    }

    /// A number below.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.random.u64(..bound)
    }
}

/// A file of so many bytes, on the disk.
pub fn fill(path: &Path, bytes: u64) -> io::Result<()> {
    let (mut noise, mut file) = (Noise::new(bytes), File::create(path)?);
    let mut left = bytes;
    while left > 0 {
        let len = left.min(1 << 20);
        file.write_all(noise.block(len as usize))?;
        left -= len;
    }
    file.sync_all()
}

/// So many files, the same every time: sizes as in source code (most of some
/// kilobytes, few of a hundred), ten to a folder.
pub fn tree(top: &Path, files: u64) -> io::Result<()> {
    let mut noise = Noise::new(files);
    fs::create_dir_all(top)?;
    for n in 0..files {
        let part = n / 10;
        let folder = top.join(format!("{}/{}/part-{part}", part % 3, part % 7));
        if n % 10 == 0 {
            fs::create_dir_all(&folder)?;
        }
        let len = 200 << noise.below(6) << if n % 20 == 0 { 4 } else { 0 };
        let len = len + noise.below(len);
        // Text, as git and tar get it: half of the bits.
        let text: Vec<u8> = (noise.block(len as usize).iter())
            .map(|byte| b' ' + byte % 64)
            .collect();
        fs::write(folder.join(format!("file-{n}.rs")), text)?;
    }
    Ok(())
}

//! Random numbers that can be had again.

/// A small random generator that says its seed when the test fails.
pub struct Seeded {
    random: fastrand::Rng,
    seed: u64,
    name: &'static str,
}

impl Seeded {
    /// The seed in `JOURNALFS_SEED`, else one derived from the test's name, so
    /// that ordinary runs repeat; `JOURNALFS_SEED=random` draws one.
    pub fn new(name: &'static str) -> Self {
        let seed = match std::env::var("JOURNALFS_SEED") {
            Ok(text) if text == "random" => fastrand::u64(..),
            Ok(text) => text
                .parse()
                .expect("JOURNALFS_SEED is a number or \"random\""),
            Err(_) => u64::from(crc32fast::hash(name.as_bytes())),
        };
        Self::from_seed(name, seed)
    }

    /// This seed.
    pub fn from_seed(name: &'static str, seed: u64) -> Self {
        Seeded {
            random: fastrand::Rng::with_seed(seed),
            seed,
            name,
        }
    }

    /// Bytes that don't compress and don't repeat.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.random.fill(&mut bytes);
        bytes
    }
}

impl std::ops::Deref for Seeded {
    type Target = fastrand::Rng;
    fn deref(&self) -> &fastrand::Rng {
        &self.random
    }
}

impl std::ops::DerefMut for Seeded {
    fn deref_mut(&mut self) -> &mut fastrand::Rng {
        &mut self.random
    }
}

impl Drop for Seeded {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}: re-run with JOURNALFS_SEED={}", self.name, self.seed);
        }
    }
}

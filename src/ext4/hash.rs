//! Directory hashes: a name's place in an indexed directory.
//!
//! Three functions, each in two flavours: the name's bytes count as signed or
//! as unsigned characters, as the machine that made the image had them. The
//! index orders leaves by `major`, whose lowest bit is always clear: in the
//! index that bit says "the leaf before holds entries of this hash too".

/// Hash of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hash {
    /// What the index is sorted by; even, and below 0xffff_fffe.
    pub major: u32,
    /// Orders names of equal `major` when a directory is listed. Never stored.
    pub minor: u32,
}

/// A hash function with its seed, as one file system uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hasher {
    function: Function,
    unsigned: bool,
    seed: [u32; 4],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Function {
    Legacy,
    HalfMd4,
    Tea,
}

/// Used where `s_hash_seed` is all zeros: MD4's initial state.
const DEFAULT_SEED: [u32; 4] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];

/// This value means "end of the directory" to the kernel, so no name has it.
const END: u32 = 0xffff_fffe;

impl Hasher {
    /// By the on-disk number (`s_def_hash_version`, `dx_root.info.hash_version`);
    /// `None` if the number is unknown. Signedness is the superblock's affair.
    pub fn new(version: u8, unsigned: bool, seed: [u32; 4]) -> Option<Self> {
        let function = match version {
            0 => Function::Legacy,
            1 => Function::HalfMd4,
            2 => Function::Tea,
            _ => return None,
        };
        let seed = if seed == [0; 4] { DEFAULT_SEED } else { seed };
        Some(Hasher {
            function,
            unsigned,
            seed,
        })
    }

    /// The on-disk number.
    pub fn version(&self) -> u8 {
        match self.function {
            Function::Legacy => 0,
            Function::HalfMd4 => 1,
            Function::Tea => 2,
        }
    }

    /// The hash of a name.
    pub fn hash(&self, name: &[u8]) -> Hash {
        let (major, minor) = match self.function {
            Function::Legacy => (self.legacy(name), 0),
            Function::HalfMd4 => {
                let state = self.fold::<8>(name, half_md4);
                (state[1], state[2])
            }
            Function::Tea => {
                let state = self.fold::<4>(name, tea);
                (state[0], state[1])
            }
        };
        let major = major & !1;
        Hash {
            major: if major == END { END - 2 } else { major },
            minor,
        }
    }

    /// A character, widened the way the image's maker widened it.
    fn widen(&self, byte: u8) -> u32 {
        if self.unsigned {
            u32::from(byte)
        } else {
            byte as i8 as u32
        }
    }

    fn legacy(&self, name: &[u8]) -> u32 {
        let (mut last, mut before) = (0x12a3_fe2d_u32, 0x37ab_e8f9_u32);
        for &byte in name {
            let mixed = last ^ self.widen(byte).wrapping_mul(0x006d_22f5);
            let mut next = before.wrapping_add(mixed);
            if next & 0x8000_0000 != 0 {
                next = next.wrapping_sub(0x7fff_ffff);
            }
            (before, last) = (last, next);
        }
        last << 1
    }

    /// Stirs the name into the seed, `WORDS` words at a time.
    fn fold<const WORDS: usize>(
        &self,
        name: &[u8],
        stir: fn(&mut [u32; 4], &[u32; WORDS]),
    ) -> [u32; 4] {
        let mut state = self.seed;
        let mut rest = name;
        while !rest.is_empty() {
            stir(&mut state, &self.words(rest));
            rest = rest.get(WORDS * 4..).unwrap_or_default();
        }
        state
    }

    /// The beginning of `rest` as big-endian words. What lacks is filled with
    /// the length of `rest`, so that a short name differs from its padding.
    fn words<const WORDS: usize>(&self, rest: &[u8]) -> [u32; WORDS] {
        let pad = (rest.len() as u32 & 0xff).wrapping_mul(0x0101_0101);
        let mut words = [pad; WORDS];
        for (word, bytes) in words.iter_mut().zip(rest.chunks(4)) {
            for &byte in bytes {
                *word = (*word << 8).wrapping_add(self.widen(byte));
            }
        }
        words
    }
}

/// MD4 (RFC 1320) with half of its steps: eight a round.
fn half_md4(state: &mut [u32; 4], words: &[u32; 8]) {
    fn round(
        r: &mut [u32; 4],
        f: fn(u32, u32, u32) -> u32,
        add: u32,
        shifts: [u32; 4],
        words: [u32; 8],
    ) {
        for (step, word) in words.into_iter().enumerate() {
            let [a, b, c, d] = *r;
            let sum = a
                .wrapping_add(f(b, c, d))
                .wrapping_add(word)
                .wrapping_add(add);
            *r = [d, sum.rotate_left(shifts[step % 4]), b, c];
        }
    }
    let mut r = *state;
    let pick = |order: [usize; 8]| order.map(|at| words[at]);
    round(
        &mut r,
        |x, y, z| (x & y) | (!x & z),
        0,
        [3, 7, 11, 19],
        *words,
    );
    round(
        &mut r,
        |x, y, z| (x & y) | (x & z) | (y & z),
        0x5a82_7999,
        [3, 5, 9, 13],
        pick([1, 3, 5, 7, 0, 2, 4, 6]),
    );
    round(
        &mut r,
        |x, y, z| x ^ y ^ z,
        0x6ed9_eba1,
        [3, 9, 11, 15],
        pick([3, 7, 2, 6, 1, 5, 0, 4]),
    );
    for (into, from) in state.iter_mut().zip(r) {
        *into = into.wrapping_add(from);
    }
}

/// Sixteen cycles of the Tiny Encryption Algorithm; the name is the key.
fn tea(state: &mut [u32; 4], key: &[u32; 4]) {
    let half = |v: u32, sum: u32, k0: u32, k1: u32| {
        (v << 4).wrapping_add(k0) ^ v.wrapping_add(sum) ^ (v >> 5).wrapping_add(k1)
    };
    let [mut x, mut y, ..] = *state;
    let mut sum = 0_u32;
    for _ in 0..16 {
        sum = sum.wrapping_add(0x9e37_79b9);
        x = x.wrapping_add(half(y, sum, key[0], key[1]));
        y = y.wrapping_add(half(x, sum, key[2], key[3]));
    }
    state[0] = state[0].wrapping_add(x);
    state[1] = state[1].wrapping_add(y);
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// What debugfs says: "Hash of NAME is 0xMAJOR (minor 0xMINOR)".
    fn debugfs(version: u8, seed: &str, name: &str) -> Hash {
        let ask = format!("dx_hash -h {version} -s {seed} \"{name}\"");
        let out = Command::new("debugfs")
            .args(["-R", &ask])
            .output()
            .expect("debugfs of e2fsprogs");
        let text = String::from_utf8_lossy(&out.stdout);
        let number = |before: &str| {
            let (_, rest) = text.rsplit_once(before).expect("a hash");
            let digits: String = rest.chars().take_while(char::is_ascii_hexdigit).collect();
            u32::from_str_radix(&digits, 16).expect("hexadecimal")
        };
        Hash {
            major: number("is 0x"),
            minor: number("minor 0x"),
        }
    }

    #[test]
    fn hashes_agree_with_debugfs() {
        let seed_text = "3a7c9e10-8b4d-4f21-a6c0-d15e92b7f384";
        let seed = [0x109e_7c3a, 0x214f_4d8b, 0x5ed1_c0a6, 0x84f3_b792];
        let long = "long".repeat(63);
        let names = [
            "a",
            "passwd",
            "exactly16bytes..",
            "exactly thirty-two bytes of name",
            "größe-ÿ€",
            &long,
        ];
        for name in names {
            for version in 0..6 {
                let hasher = Hasher::new(version % 3, version >= 3, seed).unwrap();
                let theirs = debugfs(version, seed_text, name);
                assert_eq!(
                    hasher.hash(name.as_bytes()),
                    theirs,
                    "version {version} of {name}"
                );
            }
        }
    }

    #[test]
    fn a_seed_of_zeros_means_the_default() {
        let hasher = Hasher::new(1, false, [0; 4]).unwrap();
        assert_eq!(
            hasher.hash("größe".as_bytes()),
            Hash {
                major: 0xa759_a98e,
                minor: 0x352b_69b2
            }
        );
    }

    #[test]
    fn an_unknown_hash_function_is_refused() {
        assert_eq!(Hasher::new(6, false, [0; 4]), None);
    }
}

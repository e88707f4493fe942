//! ext4's checksums: crc32c (metadata_csum), crc16 (uninit_bg), and the crc32
//! of old journals.
//!
//! All are taken as raw registers: no inversion at the start or the end, so
//! that a result is the seed of the next piece.

/// crc32c of `bytes`, continuing from `seed` (start with `!0`).
pub fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
    !crc32c::crc32c_append(!seed, bytes)
}

/// The seed of everything that belongs to an inode: its extent blocks,
/// directory blocks and itself.
pub fn inode_seed(fs_seed: u32, inode: u32, generation: u32) -> u32 {
    let seed = crc32c(fs_seed, &inode.to_le_bytes());
    crc32c(seed, &generation.to_le_bytes())
}

/// crc16 (polynomial 0x8005, reflected) of `bytes`, continuing from `seed`
/// (start with `!0`).
pub fn crc16(seed: u16, bytes: &[u8]) -> u16 {
    let step =
        |crc: u16, byte: &u8| (crc >> 8) ^ CRC16[usize::from((crc ^ u16::from(*byte)) as u8)];
    bytes.iter().fold(seed, step)
}

/// crc32 of `bytes` (polynomial 0x04C11DB7, high bit first), continuing from
/// `seed` (start with `!0`).
pub fn crc32_be(seed: u32, bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| crc << 8 ^ CRC32[usize::from((crc >> 24) as u8 ^ byte)];
    bytes.iter().fold(seed, step)
}

static CRC32: [u32; 256] = crc32_table();

const fn crc32_table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u32) << 24;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc >> 31 == 1 {
                crc << 1 ^ 0x04C1_1DB7
            } else {
                crc << 1
            };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

static CRC16: [u16; 256] = crc16_table();

const fn crc16_table() -> [u16; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u16;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 {
                (crc >> 1) ^ 0xA001
            } else {
                crc >> 1
            };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_values_of_the_polynomials_come_out() {
        assert_eq!(!crc32c(!0, b"123456789"), 0xE306_9283);
        assert_eq!(crc16(0, b"123456789"), 0xBB3D);
        assert_eq!(!crc32_be(!0, b"123456789"), 0xFC89_1918);
        assert_eq!(
            crc32c(crc32c(!0, b"1234"), b"56789"),
            crc32c(!0, b"123456789")
        );
    }
}

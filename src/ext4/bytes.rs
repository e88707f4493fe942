//! Little-endian fields at fixed offsets. The caller has checked the length.

pub(crate) fn le16(raw: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([raw[at], raw[at + 1]])
}

pub(crate) fn le32(raw: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([raw[at], raw[at + 1], raw[at + 2], raw[at + 3]])
}

/// A number kept as two 32-bit halves at unrelated places.
pub(crate) fn halves(raw: &[u8], lo: usize, hi: usize) -> u64 {
    u64::from(le32(raw, lo)) | u64::from(le32(raw, hi)) << 32
}

pub(crate) fn put16(raw: &mut [u8], at: usize, value: u16) {
    raw[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

pub(crate) fn put32(raw: &mut [u8], at: usize, value: u32) {
    raw[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

/// Writes the two halves of a number.
pub(crate) fn put_halves(raw: &mut [u8], lo: usize, hi: usize, value: u64) {
    put32(raw, lo, value as u32);
    put32(raw, hi, (value >> 32) as u32);
}

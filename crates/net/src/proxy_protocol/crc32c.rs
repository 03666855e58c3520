//! CRC-32C (Castagnoli), byte by byte over a table. Source: RFC 9260 appendix A (RFC 4960 appendix B).

/// The polynomial 0x1EDC6F41 with its bits in reverse.
const POLYNOMIAL: u32 = 0x82f6_3b78;

const TABLE: [u32; 256] = table();

/// A checksum in progress.
pub(super) struct Crc32c(u32);

impl Crc32c {
    pub(super) const fn new() -> Self {
        Self(u32::MAX)
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        for byte in bytes {
            let [low, ..] = self.0.to_le_bytes();
            self.0 = TABLE[usize::from(low ^ byte)] ^ (self.0 >> 8);
        }
    }

    pub(super) const fn finish(self) -> u32 {
        !self.0
    }
}

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut entry = 0;
    let mut byte = 0_u32;
    while entry < table.len() {
        let mut crc = byte;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc >> 1) ^ if crc & 1 == 1 { POLYNOMIAL } else { 0 };
            bit += 1;
        }
        table[entry] = crc;
        entry += 1;
        byte += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Vectors of RFC 3720 appendix B.4 and the usual check value.
    #[test]
    fn as_published() {
        let ascending: Vec<u8> = (0..32).collect();
        let cases: [(&[u8], u32); 4] = [
            (&[0; 32], 0x8a91_36aa),
            (&[0xff; 32], 0x62a8_ab43),
            (&ascending, 0x46dd_794e),
            (b"123456789", 0xe306_9283),
        ];
        for (bytes, expected) in cases {
            let mut crc = Crc32c::new();
            crc.update(&bytes[..5]);
            crc.update(&bytes[5..]);
            assert_eq!(crc.finish(), expected);
        }
    }
}

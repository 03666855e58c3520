//! Bytes that nobody can guess.

use std::io;

use rustix::rand::GetRandomFlags;

/// Fills `bytes` from the kernel's generator. Right after the machine's start it waits until that has been seeded.
///
/// # Errors
/// getrandom(2) is not there or not allowed.
pub fn fill(mut bytes: &mut [u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        // A signal may cut short what is longer than 256 bytes.
        match rustix::rand::getrandom(&mut *bytes, GetRandomFlags::empty()) {
            Ok(filled) => bytes = bytes.split_at_mut(filled).1,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_keys_are_alike() {
        let (mut one, mut other) = ([0; 1_000], [0; 1_000]);
        fill(&mut one).unwrap();
        fill(&mut other).unwrap();
        assert_ne!(one, other);
        // The end is filled too.
        assert_ne!(one[968..], [0; 32]);
    }
}

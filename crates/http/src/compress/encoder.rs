//! Encoders: bytes of a body go in, bytes of its coding come out.
//!
//! Levels are those of a balancer: it compresses the same answer again for each client, on the thread that carries all its other
//! connections. Windows are as long as the answer and at most 256 KiB (gzip: 32 KiB), so that memory an answer has a bound.
//! Measured by the test `speed_and_memory`, CPU time of one core of a small virtual machine, documents of CouchDB in pieces of
//! 16 KiB:
//!
//! ```text
//!                 4 KiB            64 KiB             4 MiB         memory
//! gzip 1    202 MB/s  2.4     371 MB/s  2.8     201 MB/s  2.8     520 KiB
//! gzip 2    148       3.4     276       4.0     151       4.1     570     <- chosen
//! gzip 6    127       3.6     112       4.8      81       4.9     570
//! zstd 1    165       3.6     761       4.6     807       4.9     620     <- chosen
//! zstd 3    164       3.6     572       4.7     390       4.6   1,240
//! br 1       93       3.4     124       3.9     126       3.9       -
//! br 3       87       3.7     124       4.5     108       4.0     960     <- chosen
//! br 4       60       3.7     100       4.7      98       4.6   5,990
//! br 5        1       3.9       4       5.2      39       4.0  30,000
//! ```
//!
//! Gzip 1 gives away too much for its speed. Brotli below 2 makes a block of each piece that it is given, and above 3 it needs
//! much memory; zstd does better in all three, so that it comes first where clients have it.

use std::fmt;
use std::io::{self, Write};

use brotli::CompressorWriter;
use brotli::enc::BrotliEncoderParams;
use evenkeel_plan::http::Coding;
use flate2::{Compress, Compression as GzipLevel, FlushCompress};
use zstd::stream::raw::{CParameter, Encoder as Zstd, InBuffer, Operation, OutBuffer};

/// At least so much room is made for what comes out, bytes.
const ROOM_BYTES: usize = 4_096;

/// Encodes one body.
///
/// Takes exactly as many bytes as the answer declared: a body that is cut short must not end as if it were whole.
pub struct Encoder {
    coder: Coder,
    coding: Coding,
    /// Bytes that are still to come.
    rest: u64,
}

/// Why a body cannot be encoded further. Its answer has begun, so that all that can be done is to cut it off.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// The library has refused; only for want of memory.
    #[error("failed to encode a body as {}", coding.as_str())]
    Encode {
        /// As what.
        coding: Coding,
        /// Its own words.
        #[source]
        source: io::Error,
    },
    /// More bytes came than were declared, or fewer.
    #[error("the body to be encoded is not as long as was declared")]
    Length,
}

enum Coder {
    Gzip(Compress),
    Zstd(Zstd<'static>),
    /// Its own buffer is exchanged for that of the caller while it works.
    Br(Box<CompressorWriter<Vec<u8>>>),
}

/// How hard to try, and how far back to look.
#[derive(Clone, Copy, Debug)]
struct Effort {
    level: u8,
    /// Binary logarithm of the longest window.
    window_log: u8,
}

impl Effort {
    const fn of(coding: Coding) -> Self {
        let (level, window_log) = match coding {
            Coding::Gzip => (2, 15),
            Coding::Zstd => (1, 18),
            Coding::Br => (3, 18),
        };
        Self { level, window_log }
    }
}

impl Encoder {
    /// One for a body of `length` bytes.
    ///
    /// # Errors
    /// [`EncodeError::Encode`]: no memory.
    pub fn new(coding: Coding, length: u64) -> Result<Self, EncodeError> {
        Self::with(coding, length, Effort::of(coding))
    }

    fn with(coding: Coding, length: u64, effort: Effort) -> Result<Self, EncodeError> {
        let coder = Coder::new(coding, length, effort)
            .map_err(|source| EncodeError::Encode { coding, source })?;
        Ok(Self {
            coder,
            coding,
            rest: length,
        })
    }

    /// Takes the next bytes of the body; what comes out is appended to `out`, often nothing.
    ///
    /// # Errors
    /// Both of [`EncodeError`].
    pub fn push(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
        self.rest = self.rest.checked_sub(length).ok_or(EncodeError::Length)?;
        let pushed = self.coder.push(data, out);
        self.or_refusal(pushed)
    }

    /// Lets out all that has gone in, so that the client can read it before more comes. For a backend that pauses in the
    /// middle of its answer; each call costs some bytes.
    ///
    /// # Errors
    /// [`EncodeError::Encode`].
    pub fn flush(&mut self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let flushed = self.coder.flush(out);
        self.or_refusal(flushed)
    }

    /// Ends the body.
    ///
    /// # Errors
    /// Both of [`EncodeError`]; [`EncodeError::Length`] where bytes are missing.
    pub fn finish(self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if self.rest != 0 {
            return Err(EncodeError::Length);
        }
        let coding = self.coding;
        self.coder
            .finish(out)
            .map_err(|source| EncodeError::Encode { coding, source })
    }

    /// As what it encodes.
    #[must_use]
    pub const fn coding(&self) -> Coding {
        self.coding
    }

    fn or_refusal(&self, done: io::Result<()>) -> Result<(), EncodeError> {
        done.map_err(|source| EncodeError::Encode {
            coding: self.coding,
            source,
        })
    }
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoder")
            .field("coding", &self.coding)
            .field("rest", &self.rest)
            .finish_non_exhaustive()
    }
}

impl Coder {
    fn new(coding: Coding, length: u64, effort: Effort) -> io::Result<Self> {
        // No longer than the body; 2^10 is the shortest that all three can do.
        let body_log = u64::BITS - length.saturating_sub(1).leading_zeros();
        let window_log = body_log.clamp(10, u32::from(effort.window_log));
        Ok(match coding {
            Coding::Gzip => {
                let level = GzipLevel::new(effort.level.into());
                let bits = u8::try_from(window_log).unwrap_or(15).min(15);
                Self::Gzip(Compress::new_gzip(level, bits))
            }
            Coding::Zstd => {
                let mut coder = Zstd::new(effort.level.into())?;
                coder.set_parameter(CParameter::WindowLog(window_log))?;
                // Makes its tables no larger than such a body needs.
                coder.set_pledged_src_size(Some(length))?;
                Self::Zstd(coder)
            }
            Coding::Br => {
                let params = BrotliEncoderParams {
                    quality: effort.level.into(),
                    lgwin: i32::try_from(window_log).unwrap_or(18),
                    size_hint: usize::try_from(length).unwrap_or(usize::MAX),
                    ..BrotliEncoderParams::default()
                };
                let coder = CompressorWriter::with_params(Vec::new(), ROOM_BYTES, &params);
                Self::Br(Box::new(coder))
            }
        })
    }

    fn push(&mut self, mut data: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Self::Gzip(coder) => {
                while !data.is_empty() {
                    out.reserve(ROOM_BYTES);
                    let before = coder.total_in();
                    coder.compress_vec(data, out, FlushCompress::None)?;
                    data = after(data, coder.total_in() - before);
                }
                Ok(())
            }
            Self::Zstd(coder) => {
                let mut input = InBuffer::around(data);
                while input.pos() < data.len() {
                    with_room(out, |room| coder.run(&mut input, room))?;
                }
                Ok(())
            }
            Self::Br(coder) => lent(coder, out, |coder| coder.write_all(data)),
        }
    }

    fn flush(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Self::Gzip(coder) => loop {
                out.reserve(ROOM_BYTES);
                coder.compress_vec(&[], out, FlushCompress::Sync)?;
                // Room that is left says that nothing more waits for room.
                if out.len() < out.capacity() {
                    return Ok(());
                }
            },
            Self::Zstd(coder) => {
                while with_room(out, |room| coder.flush(room))? > 0 {}
                Ok(())
            }
            Self::Br(coder) => lent(coder, out, CompressorWriter::flush),
        }
    }

    fn finish(self, out: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Self::Gzip(mut coder) => loop {
                out.reserve(ROOM_BYTES);
                let status = coder.compress_vec(&[], out, FlushCompress::Finish)?;
                if status == flate2::Status::StreamEnd {
                    return Ok(());
                }
            },
            Self::Zstd(mut coder) => {
                while with_room(out, |room| coder.finish(room, true))? > 0 {}
                Ok(())
            }
            Self::Br(mut coder) => {
                std::mem::swap(coder.get_mut(), out);
                *out = coder.into_inner();
                Ok(())
            }
        }
    }
}

/// What is left of `data` when so much was taken.
fn after(data: &[u8], taken: u64) -> &[u8] {
    let taken = usize::try_from(taken).unwrap_or(usize::MAX);
    data.get(taken..).unwrap_or_default()
}

/// Runs a step of zstd that appends to `out`.
fn with_room<T>(
    out: &mut Vec<u8>,
    step: impl FnOnce(&mut OutBuffer<'_, Vec<u8>>) -> io::Result<T>,
) -> io::Result<T> {
    out.reserve(ROOM_BYTES);
    let end = out.len();
    step(&mut OutBuffer::around_pos(out, end))
}

/// Runs a step of brotli with `out` as its writer.
fn lent(
    coder: &mut CompressorWriter<Vec<u8>>,
    out: &mut Vec<u8>,
    step: impl FnOnce(&mut CompressorWriter<Vec<u8>>) -> io::Result<()>,
) -> io::Result<()> {
    std::mem::swap(coder.get_mut(), out);
    let done = step(coder);
    std::mem::swap(coder.get_mut(), out);
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUNDS_NS: u64 = 300_000_000;
    const PIECE_BYTES: usize = 16 << 10;

    /// What CouchDB's `_all_docs` gives: ids and revisions that nothing shortens, and names that repeat.
    fn documents(bytes: usize) -> Vec<u8> {
        const WORDS: [&str; 8] = [
            "patient",
            "Kamau",
            "Achieng",
            "fever",
            "report",
            "district",
            "visit",
            "pregnancy",
        ];
        let mut state = 1_u64;
        let mut random = move || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            state >> 20
        };
        let word = |number: u64| WORDS[usize::from(number.to_le_bytes()[3] % 8)];
        let mut text = String::from("{\"rows\":[\n");
        while text.len() < bytes {
            let kind = word(random());
            let row = format!(
                "{{\"id\":\"{:011x}{:011x}\",\"key\":\"{kind}\",\"value\":{{\"rev\":\"{}-{:011x}{:011x}{:010x}\"}},\
                 \"doc\":{{\"type\":\"data_record\",\"form\":\"{kind}_form\",\"reported_date\":{},\
                 \"fields\":{{\"patient_age_in_years\":{},\"notes\":\"{} {} {}\"}}}}}},\n",
                random(),
                random(),
                random() % 9,
                random(),
                random(),
                random() >> 4,
                1_700_000_000_000 + random() % 9_000_000_000,
                random() % 90,
                word(random()),
                word(random()),
                word(random()),
            );
            text.push_str(&row);
        }
        text.truncate(bytes);
        text.into_bytes()
    }

    /// Time that this thread was on a CPU: other work on the machine hardly counts.
    fn cpu_ns() -> u64 {
        let schedstat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        schedstat.split(' ').next().unwrap().parse().unwrap()
    }

    fn resident_kib() -> usize {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4
    }

    fn pushed(body: &[u8], coding: Coding, effort: Effort, out: &mut Vec<u8>) -> Encoder {
        out.clear();
        let mut encoder = Encoder::with(coding, body.len() as u64, effort).unwrap();
        for piece in body.chunks(PIECE_BYTES) {
            encoder.push(piece, out).unwrap();
        }
        encoder
    }

    /// `cargo test --release -p evenkeel-http speed_and_memory -- --ignored --nocapture`. Memory is what the process grows by:
    /// little, where what was freed before is used again. Speed is by CPU time.
    #[test]
    #[ignore = "a measurement"]
    #[expect(clippy::cast_precision_loss, reason = "figures to look at")]
    fn speed_and_memory() {
        for kib in [4, 64, 4_096] {
            let body = documents(kib << 10);
            let all = [
                (Coding::Gzip, 1..=6),
                (Coding::Zstd, 1..=4),
                (Coding::Br, 0..=5),
            ];
            for (coding, level) in all
                .into_iter()
                .flat_map(|(coding, levels)| levels.map(move |level| (coding, level)))
            {
                let effort = Effort {
                    level,
                    ..Effort::of(coding)
                };
                let mut out = Vec::with_capacity(body.len());
                let before = resident_kib();
                let held: Vec<_> = (0..16)
                    .map(|_| pushed(&body, coding, effort, &mut out))
                    .collect();
                let each = resident_kib().saturating_sub(before) / held.len();
                drop(held);
                let mut rounds = 0_u32;
                let begin = cpu_ns();
                while cpu_ns() - begin < ROUNDS_NS {
                    let encoder = pushed(&body, coding, effort, &mut out);
                    encoder.finish(&mut out).unwrap();
                    rounds += 1;
                }
                let bytes = f64::from(rounds) * body.len() as f64;
                let speed = bytes * 1e3 / (cpu_ns() - begin) as f64;
                let ratio = body.len() as f64 / out.len() as f64;
                println!(
                    "{kib:4} KiB {:4} {level}: {speed:4.0} MB/s, {ratio:4.1} to 1, {each:5} KiB",
                    coding.as_str()
                );
            }
        }
    }
}

//! Memory of requests, used again.

use std::cell::RefCell;

use evenkeel_http::{AnswerHead, RequestHead};
use evenkeel_http1::{answer, request};

use super::books::Carried;
use super::down::Down;
use super::prepare::Rooms;
use super::up::Up;

/// What a request needs while it runs, used again by the next.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// While no connection has it.
    pub(super) carried: Option<Box<Carried>>,
    pub(crate) answer: AnswerHead,
    pub(crate) request_parser: request::Parser,
    pub(crate) answer_parser: answer::Parser,
    pub(crate) up: Up,
    pub(crate) down: Down,
    pub(crate) rooms: Rooms,
    /// The head as the client sent it, where that is still asked for and was changed.
    pub(crate) asked: Option<RequestHead>,
}

/// Requests' memory that is kept for the next ones.
#[derive(Debug, Default)]
pub(crate) struct Scratches(
    #[expect(clippy::vec_box, reason = "they are handed out as they are")]
    RefCell<Vec<Box<Scratch>>>,
);

/// Most of them.
const SCRATCHES_MAX: usize = 256;

/// Memory of one that is kept.
const SCRATCH_BYTES_MAX: usize = 32 * 1024;

impl Scratches {
    pub(crate) fn take(&self) -> Box<Scratch> {
        self.0.borrow_mut().pop().unwrap_or_default()
    }

    pub(super) fn give_back(&self, mut scratch: Box<Scratch>) {
        // Whatever it was in the middle of: an encoder alone has up to a MiB.
        scratch.down.clear();
        scratch.asked = None;
        let mut kept = self.0.borrow_mut();
        if kept.len() < SCRATCHES_MAX && scratch.bytes() <= SCRATCH_BYTES_MAX {
            kept.push(scratch);
        }
    }
}

impl Scratch {
    fn bytes(&self) -> usize {
        let head = self
            .carried
            .as_ref()
            .map_or(0, |carried| carried.head.fields.capacity_bytes());
        head + self.answer.fields.capacity_bytes() + self.up.bytes() + self.down.bytes()
    }
}

#[cfg(test)]
mod tests {
    use evenkeel_http::compress::Encoder;
    use evenkeel_http1::{Body, Limits};
    use evenkeel_plan::http::Coding;

    use super::*;
    use crate::http::down::{Encoding, Encodings};

    #[test]
    fn what_is_kept_for_the_next_request_is_small() {
        let scratches = Scratches::default();
        let mut scratch = scratches.take();
        let encoder = Some(Box::new(Encoding {
            encoder: Encoder::new(Coding::Br, 100_000).unwrap(),
            place: Encodings::default().place().unwrap(),
        }));
        let body = Body::Length(100_000);
        scratch
            .down
            .begin(body, &Limits::ANSWERS, Body::Chunked, encoder);
        scratches.give_back(scratch);
        let mut scratch = scratches.take();
        let down = format!("{:?}", scratch.down);
        assert!(down.contains("encoder: None"), "{down}");
        // A body that was held for another try.
        scratch
            .up
            .begin(Body::Length(1 << 20), &Limits::REQUESTS, 1 << 20, None);
        scratch.up.hold_for_test(&vec![0; 1 << 20]);
        assert!(scratch.bytes() > SCRATCH_BYTES_MAX);
        scratches.give_back(scratch);
        assert!(scratches.0.borrow().is_empty());
    }
}

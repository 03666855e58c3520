//! Idle connections without a task: a place in a slab and the entries of their sockets is all they keep.
//!
//! ```text
//!   task --park--> Lot (slab) --an event for one of its sockets--> stirred list --next--> whoever makes a task of it again
//!                    |
//!                    `--take--> whoever ends it
//! ```

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use crate::driver::{self, PLACE_BITS};
use crate::stream::Stream;

/// Places a chunk.
const CHUNK_LEN: usize = 256;

/// What can be parked: something that owns sockets.
pub trait Sockets {
    /// Calls `each` with every socket of it.
    fn each(&self, each: &mut dyn FnMut(&Stream));
}

impl Sockets for Stream {
    fn each(&self, each: &mut dyn FnMut(&Stream)) {
        each(self);
    }
}

/// A place in a lot. It is given to another after what stood there has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spot(pub u32);

/// Where idle connections stand. One thread has at most 16 lots.
pub struct Lot<T> {
    stirred: Rc<Stirred>,
    number: u32,
    places: RefCell<Places<T>>,
}

struct Places<T> {
    /// In chunks: memory grows linearly, and nothing moves.
    chunks: Vec<Box<[Option<T>]>>,
    free: Vec<u32>,
    len: usize,
}

/// Places that an event has come for.
#[derive(Default)]
pub(crate) struct Stirred {
    places: RefCell<Vec<u32>>,
    waker: Cell<Option<Waker>>,
}

impl<T: Sockets> Lot<T> {
    /// An empty lot.
    ///
    /// # Panics
    /// When the thread has 16 already.
    #[must_use]
    pub fn new() -> Self {
        let stirred = Rc::default();
        let number = driver::add_lot(&stirred);
        assert!(number.is_some(), "too many lots in one thread");
        Self {
            stirred,
            number: number.unwrap_or_default(),
            places: RefCell::new(Places {
                chunks: Vec::new(),
                free: Vec::new(),
                len: 0,
            }),
        }
    }

    /// Parks `what`. From here on, whatever its peers do makes [`Self::next`] give it back.
    ///
    /// # Errors
    /// `what` itself, when a peer has done something meanwhile.
    pub fn park(&self, what: T) -> Result<Spot, T> {
        let mut is_stirring = false;
        what.each(&mut |stream| is_stirring |= stream.is_stirring());
        if is_stirring {
            return Err(what);
        }
        let mut places = self.places.borrow_mut();
        let Some(index) = places.reserve() else {
            return Err(what);
        };
        let link = self.number << PLACE_BITS | index;
        what.each(&mut |stream| driver::park(stream.key(), link));
        *places.at(index) = Some(what);
        Ok(Spot(index))
    }

    /// Takes what stands at `spot`; none when it has left.
    pub fn take(&self, spot: Spot) -> Option<T> {
        let mut places = self.places.borrow_mut();
        if spot.0 as usize >= places.chunks.len() * CHUNK_LEN {
            return None;
        }
        let taken = places.at(spot.0).take()?;
        places.free.push(spot.0);
        places.len -= 1;
        taken.each(&mut |stream| driver::unpark(stream.key()));
        Some(taken)
    }

    /// The next one that an event has come for. Without an event in between, one may be given although there is nothing new.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped. One task at a time may wait.
    pub async fn next(&self) -> T {
        poll_fn(|cx| {
            loop {
                let Some(index) = self.stirred.places.borrow_mut().pop() else {
                    self.stirred.waker.set(Some(cx.waker().clone()));
                    return Poll::Pending;
                };
                // It may have been taken meanwhile, or both its sockets had events.
                if let Some(taken) = self.take(Spot(index)) {
                    return Poll::Ready(taken);
                }
            }
        })
        .await
    }

    /// Makes [`Self::next`] give back what stands at `spot`, as if an event had come for it.
    pub fn stir(&self, spot: Spot) {
        self.stirred.add(spot.0);
    }

    /// How many are parked.
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.borrow().len
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T: Sockets> Default for Lot<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> fmt::Debug for Lot<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lot")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

impl<T> Places<T> {
    fn reserve(&mut self) -> Option<u32> {
        if self.free.is_empty() {
            let first = u32::try_from(self.chunks.len() * CHUNK_LEN).ok()?;
            if first >> PLACE_BITS != 0 {
                return None;
            }
            self.chunks.push((0..CHUNK_LEN).map(|_| None).collect());
            self.free
                .extend((first..).take(CHUNK_LEN).collect::<Vec<_>>().iter().rev());
        }
        self.len += 1;
        self.free.pop()
    }

    fn at(&mut self, index: u32) -> &mut Option<T> {
        let index = index as usize;
        &mut self.chunks[index / CHUNK_LEN][index % CHUNK_LEN]
    }
}

impl Stirred {
    pub(crate) fn add(&self, place: u32) {
        self.places.borrow_mut().push(place);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

//! The way from a generator to what carries its messages.

use crate::payload::Stamp;

/// What the engine said to a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// Taken; its outcome will come.
    Accepted,
    /// Not now.
    Full,
    /// Never: counts as failed, by this cause.
    Refused(&'static str),
}

/// The way to an engine.
pub trait Outlet {
    /// The time now, read freshly.
    fn clock_ns(&self) -> u64;
    /// Puts message `stamp`, with its slot as tag.
    fn put(&mut self, stamp: Stamp) -> Put;

    /// Puts one after the other. Returns how many were accepted, and what the engine said to the next one, which may or may
    /// not have been taken from `stamps`; `Accepted` if there is none.
    #[inline]
    fn put_each(&mut self, stamps: impl Iterator<Item = Stamp>) -> (u32, Put) {
        put_one_by_one(self, stamps)
    }
}

/// [`Outlet::put_each`] where nothing is gained by putting many.
pub fn put_one_by_one(
    outlet: &mut (impl Outlet + ?Sized),
    stamps: impl Iterator<Item = Stamp>,
) -> (u32, Put) {
    let mut accepted = 0;
    for stamp in stamps {
        match outlet.put(stamp) {
            Put::Accepted => accepted += 1,
            other => return (accepted, other),
        }
    }
    (accepted, Put::Accepted)
}

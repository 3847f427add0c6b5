//! Small messages that wait for credit or window, in the order they came.
//!
//! ```text
//!   waiting   [meta, 72] [meta, 72] [meta, -] [meta, 264] ...             what is known of each
//!   frames    [frame....][frame....]          [frame................] ...  a ring
//!   own                             [payload, options] ...
//! ```
//!
//! A short message without options waits as the frame it will leave in, which is written as if it left at once. Only its number
//! is missing: a datagram's worth of frames is moved by one copy, and numbered. Others wait as they came.

use super::extras::extension_bytes;
use super::flow::Queued;
use super::op_ring::Meta;
use super::source::Source;
use crate::options::Options;
use crate::units::Instant;
use crate::wire::binary;
use crate::wire::binary::{MESSAGE_FRAME_BYTES, message_frame_bytes};
use bytes::Bytes;
use std::collections::VecDeque;

/// Longest payload that waits in a frame: to copy a longer one costs more than to share it.
const COPIED_BYTES_MAX: usize = 128;
/// Of more that wait as they came it is not added up how long they are.
const OWN_LOOKS: usize = 4_096;
/// What the ring begins with: a few messages.
const RING_BYTES_MIN: usize = 512;
/// What it keeps with nothing in it, at most.
const RING_BYTES_KEPT: usize = 64 << 10;
/// What one that waits takes at most, beside a payload that waits as it came: both rings double.
pub const WAITING_BYTES: usize =
    2 * (size_of::<Waiting<[usize; 2]>>() + message_frame_bytes(COPIED_BYTES_MAX));

/// See the module.
#[derive(Debug)]
pub struct SmallQueue<C> {
    waiting: VecDeque<Waiting<C>>,
    frames: FrameRing,
    own: VecDeque<Own>,
    /// Messages may be added up to here in `frames` with no look at anything else; 0: there has to be one.
    direct_until: usize,
}

#[derive(Debug)]
struct Waiting<C> {
    meta: Meta<C>,
    /// It is the next of `frames`, and so long; 0: the next of `own`.
    frame_bytes: u32,
}

/// What waits as it came.
#[derive(Debug)]
struct Own {
    payload: Bytes,
    options: Option<Box<Options>>,
}

impl Own {
    fn frame_bytes(&self) -> usize {
        message_frame_bytes(self.payload.len()) + extension_bytes(self.options.as_deref())
    }
}

impl<C> SmallQueue<C> {
    /// Nothing waits.
    #[must_use]
    pub const fn new() -> Self {
        Self { waiting: VecDeque::new(), frames: FrameRing::NEW, own: VecDeque::new(), direct_until: 0 }
    }

    /// Nothing waits.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Bytes of their frames; of those that wait as they came, of the first ones.
    #[must_use]
    pub fn frames_bytes(&self) -> usize {
        self.frames.bytes() + self.own.iter().take(OWN_LOOKS).map(Own::frame_bytes).sum::<usize>()
    }

    /// Bytes of the first one's frame.
    #[inline]
    #[must_use]
    pub fn next_frame_bytes(&self) -> Option<usize> {
        let frame_bytes = self.waiting.front()?.frame_bytes;
        if frame_bytes > 0 { Some(frame_bytes as usize) } else { self.own.front().map(Own::frame_bytes) }
    }

    /// When each expires.
    pub fn deadlines(&self) -> impl Iterator<Item = Instant> {
        self.waiting.iter().map(|waiting| waiting.meta.deadline)
    }

    /// Adds one.
    pub fn push(&mut self, meta: Meta<C>, payload: impl Source) {
        let bytes = payload.len();
        if bytes <= COPIED_BYTES_MAX {
            self.frames.make_room(message_frame_bytes(bytes));
            self.push_frame(meta, (bytes, |space: &mut [u8]| payload.write(space)));
        } else {
            self.push_own(Queued { meta, payload: payload.own(), options: None });
        }
    }

    /// Adds one that waits as it came.
    pub fn push_own(&mut self, message: Queued<C>) {
        let Queued { meta, payload, options } = message;
        self.own.push_back(Own { payload, options });
        self.waiting.push_back(Waiting { meta, frame_bytes: 0 });
    }

    /// Adds one before all others.
    pub fn push_front(&mut self, message: Queued<C>) {
        let Queued { meta, payload, options } = message;
        self.own.push_front(Own { payload, options });
        self.waiting.push_front(Waiting { meta, frame_bytes: 0 });
    }

    /// Adds one that `write` writes. There is room for it.
    #[inline(always)]
    pub fn push_frame(&mut self, meta: Meta<C>, (bytes, write): (usize, impl FnOnce(&mut [u8]))) {
        let frame_bytes = message_frame_bytes(bytes);
        // First what may panic: then the message has not been put.
        write(binary::plain_message_space(self.frames.space(frame_bytes), 0));
        self.frames.tail += frame_bytes;
        self.waiting.push_back(Waiting { meta, frame_bytes: frame_bytes as u32 });
    }

    /// Adds messages of `bytes` bytes as [`push_frame`](Self::push_frame), up to `room`, for as long as
    /// [`takes_direct`](Self::takes_direct) is true. Returns how many, and whether there may be more.
    #[inline(always)]
    pub fn push_each<F: FnOnce(&mut [u8])>(
        &mut self,
        bytes: usize,
        room: usize,
        messages: &mut impl Iterator<Item = (u64, F)>,
        mut meta: impl FnMut(u64) -> Meta<C>,
    ) -> (usize, bool) {
        let frame_bytes = message_frame_bytes(bytes);
        let mut put = 0;
        while put < room && self.takes_direct(frame_bytes) {
            let Some((tag, write)) = messages.next() else { return (put, false) };
            write(binary::plain_message_space(self.frames.space(frame_bytes), 0));
            self.frames.tail += frame_bytes;
            self.waiting.push_back(Waiting { meta: meta(tag), frame_bytes: frame_bytes as u32 });
            put += 1;
        }
        (put, true)
    }

    /// What was true of the one just added is true of those behind it.
    pub const fn go_direct(&mut self) {
        self.direct_until = self.frames.end_of_room();
    }

    /// It is not any more.
    #[inline]
    pub const fn look_again(&mut self) {
        self.direct_until = 0;
    }

    /// Whether messages are added with no look at anything else.
    #[inline(always)]
    #[must_use]
    pub const fn is_direct(&self) -> bool {
        self.direct_until > 0
    }

    /// Whether one of that frame may be.
    #[inline(always)]
    #[must_use]
    pub const fn takes_direct(&self, frame_bytes: usize) -> bool {
        self.frames.tail + frame_bytes <= self.direct_until
            && frame_bytes <= message_frame_bytes(COPIED_BYTES_MAX)
    }

    /// Moves the frames that come first into `space`, up to `most`; `number` takes what is known of each, with the size of its
    /// payload, and numbers it. Returns how many, and their bytes.
    #[inline]
    pub fn take_frames(
        &mut self,
        space: &mut [u8],
        most: usize,
        mut number: impl FnMut(Meta<C>, usize) -> u64,
    ) -> (usize, usize) {
        self.look_again();
        let frames = self.frames.first();
        let room = frames.len().min(space.len());
        let (mut count, mut bytes) = (0, 0);
        // What is behind the end of its ring comes next time.
        let (waiting, _) = self.waiting.as_slices();
        for waiting in &waiting[..most.min(waiting.len())] {
            let frame_bytes = waiting.frame_bytes as usize;
            if frame_bytes == 0 || bytes + frame_bytes > room {
                break;
            }
            bytes += frame_bytes;
            count += 1;
        }
        let space = &mut space[..bytes];
        space.copy_from_slice(&frames[..bytes]);
        let mut at = 0;
        for Waiting { meta, frame_bytes } in self.waiting.drain(..count) {
            let frame_bytes = frame_bytes as usize;
            let seq = number(meta, frame_bytes - MESSAGE_FRAME_BYTES);
            binary::number_plain_message(&mut space[at..], seq as u32);
            at += frame_bytes;
        }
        self.frames.take(bytes);
        (count, bytes)
    }

    /// The first one, if it waits as it came and that is `wanted`.
    #[inline]
    pub fn pop_own(&mut self, wanted: impl FnOnce(&Bytes, Option<&Options>) -> bool) -> Option<Queued<C>> {
        let is_own = self.waiting.front().is_some_and(|waiting| waiting.frame_bytes == 0);
        let Own { payload, options } = self.own.front().filter(|_| is_own)?;
        if wanted(payload, options.as_deref()) { self.pop() } else { None }
    }

    /// The first one.
    pub fn pop(&mut self) -> Option<Queued<C>> {
        self.look_again();
        let Waiting { meta, frame_bytes } = self.waiting.pop_front()?;
        if frame_bytes == 0 {
            let Own { payload, options } = self.own.pop_front()?;
            return Some(Queued { meta, payload, options });
        }
        let frame = &self.frames.first()[..frame_bytes as usize];
        let payload = Bytes::copy_from_slice(&frame[MESSAGE_FRAME_BYTES..]);
        self.frames.take(frame_bytes as usize);
        Some(Queued { meta, payload, options: None })
    }

    /// Takes out all that are `wanted`, and says what is known of them, and the sizes of their payloads.
    pub fn remove(
        &mut self,
        mut wanted: impl FnMut(&Meta<C>) -> bool,
        mut removed: impl FnMut(Meta<C>, usize),
    ) {
        // What came first mostly ends first.
        while self.waiting.front().is_some_and(|first| wanted(&first.meta))
            && let Some((meta, bytes)) = self.drop_first()
        {
            removed(meta, bytes);
        }
        if !self.waiting.iter().any(|waiting| wanted(&waiting.meta)) {
            return;
        }
        let mut all = std::mem::take(self);
        self.frames = FrameRing::with_len(all.frames.ring.len());
        while let Some(next) = all.waiting.front() {
            if !wanted(&next.meta) {
                self.take_over(&mut all);
            } else if let Some((meta, bytes)) = all.drop_first() {
                removed(meta, bytes);
            }
        }
    }

    /// Takes out the first one; what is known of it, and the size of its payload.
    fn drop_first(&mut self) -> Option<(Meta<C>, usize)> {
        self.look_again();
        let Waiting { meta, frame_bytes } = self.waiting.pop_front()?;
        if frame_bytes == 0 {
            return self.own.pop_front().map(|own| (meta, own.payload.len()));
        }
        self.frames.take(frame_bytes as usize);
        Some((meta, frame_bytes as usize - MESSAGE_FRAME_BYTES))
    }

    /// Takes over all of another one.
    pub fn append(&mut self, other: &mut Self) {
        self.look_again();
        other.look_again();
        while !other.is_empty() {
            self.take_over(other);
        }
    }

    /// Takes out all, as they came.
    pub fn drain(&mut self) -> impl Iterator<Item = Queued<C>> + use<C> {
        let mut all = std::mem::take(self);
        std::iter::from_fn(move || all.pop())
    }

    /// Takes over the first one of another one.
    fn take_over(&mut self, other: &mut Self) {
        let Some(next) = other.waiting.pop_front() else { return };
        if next.frame_bytes > 0 {
            let bytes = next.frame_bytes as usize;
            self.frames.make_room(bytes);
            self.frames.space(bytes).copy_from_slice(&other.frames.first()[..bytes]);
            self.frames.tail += bytes;
            other.frames.take(bytes);
        } else {
            self.own.extend(other.own.pop_front());
        }
        self.waiting.push_back(next);
    }

    /// Bytes it takes of the heap.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.waiting.capacity() * size_of::<Waiting<C>>()
            + self.own.capacity() * size_of::<Own>()
            + self.frames.ring.len()
    }

    /// Gives back what it does not need, with nothing in it.
    pub fn shrink_to_fit(&mut self) {
        if self.is_empty() {
            *self = Self::new();
        }
    }
}

impl<C> Default for SmallQueue<C> {
    fn default() -> Self {
        Self::new()
    }
}

/// Frames one behind the other, each in one piece.
///
/// ```text
///   ring  [ 4 ][ 5 ] tail          head [ 1 ][ 2 ][ 3 ] wrapped_at    unused
/// ```
#[derive(Debug)]
struct FrameRing {
    ring: Vec<u8>,
    /// Where the first one begins.
    head: usize,
    /// Where the next one does.
    tail: usize,
    /// Behind the last one before those at the ring's start; 0: none are there.
    wrapped_at: usize,
}

impl FrameRing {
    const NEW: Self = Self { ring: Vec::new(), head: 0, tail: 0, wrapped_at: 0 };

    fn with_len(len: usize) -> Self {
        Self { ring: vec![0; len], ..Self::NEW }
    }

    /// Of all frames.
    const fn bytes(&self) -> usize {
        if self.wrapped_at > 0 { self.wrapped_at - self.head + self.tail } else { self.tail - self.head }
    }

    /// Where what follows `tail` ends.
    const fn end_of_room(&self) -> usize {
        // Not up to the first frame: a ring that is full would look like an empty one.
        if self.wrapped_at > 0 { self.head - 1 } else { self.ring.len() }
    }

    /// The next frame's place.
    #[inline(always)]
    fn space(&mut self, bytes: usize) -> &mut [u8] {
        &mut self.ring[self.tail..self.tail + bytes]
    }

    /// There is room for a frame at `tail`.
    fn make_room(&mut self, bytes: usize) {
        if self.tail + bytes <= self.end_of_room() {
            return;
        }
        if self.wrapped_at == 0 && bytes < self.head {
            (self.wrapped_at, self.tail) = (self.tail, 0);
            return;
        }
        let in_use = self.bytes();
        let len = (2 * self.ring.len()).max(RING_BYTES_MIN).max((in_use + bytes).next_power_of_two());
        let mut grown = vec![0; len];
        let first = self.first();
        grown[..first.len()].copy_from_slice(first);
        if self.wrapped_at > 0 {
            grown[first.len()..in_use].copy_from_slice(&self.ring[..self.tail]);
        }
        (self.ring, self.head, self.tail, self.wrapped_at) = (grown, 0, in_use, 0);
    }

    /// The first frames, as many as are in one piece.
    fn first(&self) -> &[u8] {
        &self.ring[self.head..if self.wrapped_at > 0 { self.wrapped_at } else { self.tail }]
    }

    /// So many bytes of those are not needed any more.
    fn take(&mut self, bytes: usize) {
        self.head += bytes;
        if self.wrapped_at > 0 && self.head == self.wrapped_at {
            (self.head, self.wrapped_at) = (0, 0);
        }
        if self.wrapped_at == 0 && self.head == self.tail {
            (self.head, self.tail) = (0, 0);
            if self.ring.len() > RING_BYTES_KEPT {
                self.ring = Vec::new();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::binary::source::Shared;
    use proptest::prelude::*;

    fn meta(tag: u64) -> Meta<u64> {
        let (accepted_at, deadline) = (Instant::default(), Instant::from_ns(tag));
        Meta { completion: tag, tag, accepted_at, deadline }
    }

    fn payload(tag: u64, bytes: usize) -> Bytes {
        vec![tag as u8; bytes].into()
    }

    /// What it should hold: a number and a payload each.
    type Model = VecDeque<(u64, Bytes)>;

    fn check(model: &mut Model, count: usize, mut frames: &[u8]) {
        for _ in 0..count {
            let (tag, payload) = model.pop_front().expect("one that was put");
            let frame;
            (frame, frames) = frames.split_at(message_frame_bytes(payload.len()));
            let binary::Frame::Message(message) = binary::frames(frame).next().unwrap().unwrap() else {
                panic!("a MESSAGE");
            };
            assert_eq!((message.seq, message.payload), (tag as u32 ^ 0xabcd, &payload[..]));
        }
        assert!(frames.is_empty());
    }

    fn is_taken_as_it_came(model: &mut Model, queued: Option<Queued<u64>>) -> bool {
        let Some(Queued { meta, payload, .. }) = queued else { return false };
        assert_eq!(model.pop_front(), Some((meta.tag, payload)));
        true
    }

    proptest! {
        /// Whatever is added how, taken how, and taken out: in order, each once, as it was.
        #[test]
        fn agrees_with_a_list(ops in prop::collection::vec((0u8..10, 0usize..200, 0usize..1_500), 1..200)) {
            let (mut queue, mut model, mut tag) = (SmallQueue::new(), Model::new(), 0);
            let mut other = (SmallQueue::new(), Model::new());
            for (op, bytes, room) in ops {
                tag += 1;
                match op {
                    0 | 1 => {
                        queue.push(meta(tag), Shared(payload(tag, bytes)));
                        model.push_back((tag, payload(tag, bytes)));
                        queue.go_direct();
                    }
                    2 => {
                        let mut messages = (tag..tag + 30).map(|tag| (tag, move |space: &mut [u8]| space.fill(tag as u8)));
                        let (put, more) = queue.push_each(bytes, 20, &mut messages, meta);
                        prop_assert!(more && put <= 20);
                        model.extend((tag..tag + put as u64).map(|tag| (tag, payload(tag, bytes))));
                        tag += 30;
                    }
                    3 => {
                        queue.push_own(Queued { meta: meta(tag), payload: payload(tag, bytes), options: None });
                        model.push_back((tag, payload(tag, bytes)));
                    }
                    4 => {
                        queue.push_front(Queued { meta: meta(tag), payload: payload(tag, bytes), options: None });
                        model.push_front((tag, payload(tag, bytes)));
                    }
                    5 | 6 => {
                        let mut space = vec![0; room];
                        let number = |meta: Meta<u64>, _| meta.tag ^ 0xabcd;
                        let (count, taken) = queue.take_frames(&mut space, 1 + bytes / 10, number);
                        prop_assert!(count <= 1 + bytes / 10);
                        check(&mut model, count, &space[..taken]);
                        if count == 0 {
                            is_taken_as_it_came(&mut model, queue.pop_own(|_, _| true));
                        }
                    }
                    7 => {
                        let had = !model.is_empty();
                        prop_assert_eq!(is_taken_as_it_came(&mut model, queue.pop()), had);
                    }
                    8 => {
                        let is_one = |tag: u64| tag % 7 == room as u64 % 7;
                        let mut removed = Vec::new();
                        queue.remove(|meta| is_one(meta.completion), |meta, bytes| removed.push((meta.tag, bytes)));
                        let expected = model.iter().filter(|one| is_one(one.0)).map(|one| (one.0, one.1.len()));
                        prop_assert_eq!(removed, expected.collect::<Vec<_>>());
                        model.retain(|one| !is_one(one.0));
                    }
                    _ => {
                        other.0.append(&mut queue);
                        other.1.append(&mut model);
                        std::mem::swap(&mut queue, &mut other.0);
                        std::mem::swap(&mut model, &mut other.1);
                    }
                }
                let frame_bytes = |one: &(u64, Bytes)| message_frame_bytes(one.1.len());
                prop_assert_eq!(queue.is_empty(), model.is_empty());
                prop_assert_eq!(queue.next_frame_bytes(), model.front().map(frame_bytes));
                prop_assert_eq!(queue.frames_bytes(), model.iter().map(frame_bytes).sum::<usize>());
                let deadlines: Vec<_> = queue.deadlines().map(Instant::as_ns).collect();
                prop_assert_eq!(deadlines, model.iter().map(|one| one.0).collect::<Vec<_>>());
            }
            prop_assert!(queue.drain().map(|queued| (queued.meta.tag, queued.payload)).eq(model));
        }
    }

    #[test]
    fn memory_is_used_again_and_given_back() {
        let mut queue = SmallQueue::new();
        let mut most = 0;
        for tag in 0..10_000 {
            queue.push(meta(tag), Shared(payload(tag, 64)));
            if tag >= 100 {
                let mut space = [0; 72];
                assert_eq!(queue.take_frames(&mut space, 1, |meta, bytes| meta.tag + bytes as u64), (1, 72));
            }
            most = queue.memory_bytes().max(most);
        }
        assert!(most <= 32 << 10, "{most} bytes for 100 messages of 64");
        (0..10_000).for_each(|tag| queue.push(meta(tag), Shared(payload(tag, 64))));
        assert!(queue.frames.ring.len() <= 2 << 20);
        while queue.pop().is_some() {}
        assert!(queue.frames.ring.len() <= RING_BYTES_KEPT, "a flow that is never idle");
        queue.shrink_to_fit();
        assert_eq!(queue.memory_bytes(), 0);
    }

    #[test]
    fn what_cannot_be_written_has_not_been_put() {
        let mut queue = SmallQueue::new();
        (0..20).for_each(|tag| queue.push(meta(tag), Shared(payload(tag, 100))));
        let mut space = [0; 1_500];
        queue.take_frames(&mut space, 19, |meta, _| meta.tag);
        struct Fails;
        impl Source for Fails {
            fn len(&self) -> usize {
                120
            }
            fn write(self, _: &mut [u8]) {
                panic!("a user's own");
            }
            fn own(self) -> Bytes {
                Bytes::new()
            }
        }
        for tag in 20..40 {
            let put = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| queue.push(meta(tag), Fails)));
            assert!(put.is_err());
            queue.push(meta(tag), Shared(payload(tag, 30)));
        }
        let tags: Vec<_> = queue.drain().map(|queued| (queued.meta.tag, queued.payload)).collect();
        let expected = (13..20).map(|tag| (tag, payload(tag, 100)));
        assert_eq!(tags, expected.chain((20..40).map(|tag| (tag, payload(tag, 30)))).collect::<Vec<_>>());
    }
}

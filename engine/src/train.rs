//! Trains: runs of equal-length datagrams to one address that cost one send (UDP GSO).
//!
//! [`TrainBatch`] is what a shard has to send in one turn: one arena of bytes and a table of trains over it. `proto`
//! encodes rows straight into the arena, the driver hands the arena to the kernel, nothing is copied in between.
//!
//! ```text
//!   arena  |row|row|row|row|ro|row|row|row| ...
//!          '---- train 0 ----''- train 1 -'      a train ends with at most one shorter row
//!   lent   |datagram|datagram|   |datagram|      datagrams their sender keeps (binary wire): a train gathers them
//!          '--------- train 2 ---'--------'
//! ```
//!
//! The memory of kept datagrams belongs to `proto`; it is swapped in here while the kernel reads it ([`TrainBatch::lent`]).

use crate::hash::Set;
#[cfg(any(test, feature = "sim"))]
use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

/// Longest train over IPv4. UDP itself would take 65,507 bytes, but the kernel passes a train on whole only while it is
/// below 65,536 with its headers (14 + 20 + 8); a longer one is cut into datagrams before it reaches the receiver.
pub const TRAIN_BYTES_MAX_V4: usize = 65_493;
/// Longest train over IPv6 (headers 14 + 40 + 8).
pub const TRAIN_BYTES_MAX_V6: usize = 65_473;
/// Segments in a train that every kernel with UDP GSO accepts; newer ones take 128 (probed at start).
pub const TRAIN_SEGMENTS_SAFE: usize = 64;
/// Destinations remembered as refusing GSO, per shard. Beyond it the oldest knowledge is forgotten, and learned again.
const GSO_REFUSED_MAX: usize = 4_096;
/// Pieces of memory a train of kept datagrams is gathered from, at most.
pub const TRAIN_PARTS_MAX: usize = 64;

/// Where a kept datagram comes from: whom to tell if it does not leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Index of the flow.
    pub flow: u32,
    /// Number of the train's first datagram; the others follow.
    pub number: u64,
}

/// A piece of memory.
#[derive(Clone, Copy, Debug)]
struct Part {
    start: usize,
    len: usize,
}

/// One train: `bytes` cut every `segment_bytes`, the last segment may be shorter.
#[derive(Clone, Copy, Debug)]
pub struct Train {
    /// Destination.
    pub to: SocketAddr,
    /// Source address to use, for sockets bound to a wildcard; `None` lets the kernel choose.
    pub local: Option<IpAddr>,
    /// In the arena; of kept datagrams, the index of the first part.
    start: usize,
    len: usize,
    parts: usize,
    /// Length of every segment but the last.
    pub segment_bytes: usize,
    /// Number of segments.
    pub segments: usize,
    /// Set if its datagrams are kept by their sender.
    pub origin: Option<Origin>,
    /// Set if it has sealed copies of such: these stay here until the socket takes them.
    pub sealed: Option<Origin>,
}

impl Train {
    /// Whether datagram `next` may follow those of the train that begins with `first`.
    fn continues(&self, first: Option<Origin>, next: Origin) -> bool {
        first.is_some_and(|first| {
            first.flow == next.flow && first.number + self.segments as u64 == next.number
        })
    }
}

/// What a shard sends in one turn.
#[derive(Debug)]
pub struct TrainBatch {
    bytes: Vec<u8>,
    used: usize,
    trains: Vec<Train>,
    /// Without any in it: memory for those that go again.
    spare: Vec<Train>,
    /// Of trains of kept datagrams.
    parts: Vec<Part>,
    lent: Vec<u8>,
    trains_max: usize,
    /// The destination rows go to now.
    to: SocketAddr,
    local: Option<IpAddr>,
    segments_max: usize,
    train_bytes_max: usize,
    /// For IPv4 and IPv6 destinations.
    train_bytes_limits: (usize, usize),
    /// Whether the last train may take another row, and which route its rows carry.
    open: bool,
    open_route: u8,
    gso_segments_max: usize,
    gso_refused: Set<SocketAddr>,
    datagrams_total: u64,
}

impl TrainBatch {
    /// An empty batch with room for `bytes_max` bytes in `trains_max` trains of up to `segments_max` segments.
    #[must_use]
    pub fn new(bytes_max: usize, trains_max: usize, segments_max: usize) -> Self {
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        Self {
            bytes: vec![0; bytes_max],
            used: 0,
            trains: Vec::with_capacity(trains_max),
            spare: Vec::new(),
            parts: Vec::with_capacity(trains_max),
            lent: Vec::new(),
            trains_max,
            to: nowhere,
            local: None,
            segments_max: 1,
            train_bytes_max: TRAIN_BYTES_MAX_V4,
            train_bytes_limits: (TRAIN_BYTES_MAX_V4, TRAIN_BYTES_MAX_V6),
            open: false,
            open_route: 0,
            gso_segments_max: segments_max,
            gso_refused: Set::default(),
            datagrams_total: 0,
        }
    }

    /// Datagrams put in since it was made.
    #[must_use]
    pub const fn datagrams_total(&self) -> u64 {
        self.datagrams_total
    }

    /// Datagrams in it now.
    #[must_use]
    pub fn datagrams(&self) -> usize {
        self.trains.iter().map(|train| train.segments).sum()
    }

    /// Lets trains be as long as the kernel accepts them, though longer than it passes them on whole.
    #[cfg(test)]
    pub fn allow_longest_trains(&mut self) {
        self.train_bytes_limits = (65_507, 65_487);
    }

    /// Forgets all trains; what is known of destinations stays.
    pub fn clear(&mut self) {
        self.used = 0;
        self.trains.clear();
        self.parts.clear();
        self.open = false;
    }

    /// The memory kept datagrams are in, to be swapped in before a batch that has any is sent, and back afterwards.
    pub fn lent(&mut self) -> &mut Vec<u8> {
        &mut self.lent
    }

    /// Rows pushed from now on go to `to`, from `local`. An open train to the same place stays open.
    pub fn begin(&mut self, to: SocketAddr, local: Option<IpAddr>) {
        if self.open && self.to == to && self.local == local {
            return;
        }
        self.open = false;
        self.to = to;
        self.local = local;
        let refused = !self.gso_refused.is_empty() && self.gso_refused.contains(&to);
        self.segments_max = if refused { 1 } else { self.gso_segments_max };
        let (v4, v6) = self.train_bytes_limits;
        self.train_bytes_max = if to.is_ipv4() { v4 } else { v6 };
    }

    /// Space for one row of exactly `row_bytes` bytes carrying `route`, or `None` if the batch is full.
    ///
    /// The row joins the open train when it may: same route, not longer than the train's segments, room left. A shorter
    /// row ends the train it joins.
    #[inline]
    pub fn push(&mut self, route: u8, row_bytes: usize) -> Option<&mut [u8]> {
        self.push_run(route, row_bytes, 1)
    }

    /// As [`push`](Self::push), for the sealed copy of a datagram that its sender keeps. It joins the open train if its number
    /// follows as well.
    pub fn push_sealed(&mut self, origin: Origin, route: u8, row_bytes: usize) -> Option<&mut [u8]> {
        self.push_rows(route, row_bytes, 1, Some(origin))
    }

    /// Space for up to `rows_max` (> 0) such rows: as many as one train takes, at least one.
    pub fn push_run(&mut self, route: u8, row_bytes: usize, rows_max: usize) -> Option<&mut [u8]> {
        self.push_rows(route, row_bytes, rows_max, None)
    }

    #[inline(always)]
    fn push_rows(
        &mut self,
        route: u8,
        row_bytes: usize,
        rows_max: usize,
        sealed: Option<Origin>,
    ) -> Option<&mut [u8]> {
        debug_assert!(row_bytes > 0 && row_bytes <= 65_507 && rows_max > 0);
        let rows_max = rows_max.min((self.bytes.len() - self.used) / row_bytes);
        if rows_max == 0 {
            return None;
        }
        let start = self.used;
        let rows;
        match self.trains.last_mut() {
            Some(train)
                if self.open
                    && train.origin.is_none()
                    && match sealed {
                        None => train.sealed.is_none(),
                        Some(next) => train.continues(train.sealed, next),
                    }
                    && route == self.open_route
                    && row_bytes <= train.segment_bytes
                    && train.segments < self.segments_max
                    && train.len + row_bytes <= self.train_bytes_max =>
            {
                self.open = row_bytes == train.segment_bytes;
                rows = if self.open {
                    let room = (self.train_bytes_max - train.len) / row_bytes;
                    rows_max.min(room).min(self.segments_max - train.segments)
                } else {
                    1
                };
                train.len += rows * row_bytes;
                train.segments += rows;
            }
            _ => {
                if self.trains.len() >= self.trains_max {
                    return None;
                }
                // The first row may be longer than a train.
                rows = rows_max.min(self.train_bytes_max / row_bytes).min(self.segments_max).max(1);
                self.trains.push(Train {
                    to: self.to,
                    local: self.local,
                    start,
                    len: rows * row_bytes,
                    parts: 0,
                    segment_bytes: row_bytes,
                    segments: rows,
                    origin: None,
                    sealed,
                });
                self.open = true;
                self.open_route = route;
            }
        }
        self.used += rows * row_bytes;
        self.datagrams_total += rows as u64;
        Some(&mut self.bytes[start..start + rows * row_bytes])
    }

    /// Adds a datagram that its sender keeps, `len` bytes from `start` of the lent memory; false if the batch is full.
    ///
    /// It joins the open train if its number follows that of the datagram before, it is not longer than the train's
    /// segments, and there is room.
    pub fn push_kept(&mut self, origin: Origin, start: usize, len: usize) -> bool {
        match self.trains.last_mut() {
            Some(train)
                if self.open
                    && train.continues(train.origin, origin)
                    && len <= train.segment_bytes
                    && train.segments < self.segments_max
                    && train.len + len <= self.train_bytes_max
                    && train.parts < TRAIN_PARTS_MAX =>
            {
                train.len += len;
                train.segments += 1;
                self.open = len == train.segment_bytes;
                match self.parts.last_mut() {
                    Some(part) if part.start + part.len == start => part.len += len,
                    _ => {
                        self.parts.push(Part { start, len });
                        train.parts += 1;
                    }
                }
            }
            _ => {
                if self.trains.len() >= self.trains_max {
                    return false;
                }
                self.trains.push(Train {
                    to: self.to,
                    local: self.local,
                    start: self.parts.len(),
                    len,
                    parts: 1,
                    segment_bytes: len,
                    segments: 1,
                    origin: Some(origin),
                    sealed: None,
                });
                self.parts.push(Part { start, len });
                self.open = true;
            }
        }
        self.datagrams_total += 1;
        true
    }

    /// What follows does not join the open train if its segments are longer than `bytes`.
    pub fn cut_longer(&mut self, bytes: usize) {
        self.open &= self.trains.last().is_none_or(|train| train.segment_bytes <= bytes);
    }

    /// Moves the trains from `index` on before all others.
    pub fn send_first(&mut self, index: usize) {
        self.open = false;
        self.trains.rotate_left(index);
    }

    /// The trains, in the order they are to leave.
    #[must_use]
    pub fn trains(&self) -> &[Train] {
        &self.trains
    }

    /// The bytes of one of this batch's trains, piece by piece: at most [`TRAIN_PARTS_MAX`] pieces.
    pub fn pieces(&self, train: &Train) -> impl Iterator<Item = &[u8]> {
        let own = train.origin.is_none().then(|| &self.bytes[train.start..train.start + train.len]);
        let parts = if own.is_some() { &[] } else { &self.parts[train.start..train.start + train.parts] };
        own.into_iter().chain(parts.iter().map(|part| &self.lent[part.start..part.start + part.len]))
    }

    /// The bytes of one of this batch's trains. Copies those that are not in one piece: not for the hot path.
    #[cfg(any(test, feature = "sim"))]
    #[must_use]
    pub fn bytes(&self, train: &Train) -> Cow<'_, [u8]> {
        let mut pieces = self.pieces(train);
        match (pieces.next(), pieces.next()) {
            (Some(only), None) => Cow::Borrowed(only),
            _ => {
                let mut whole = Vec::with_capacity(train.len);
                self.pieces(train).for_each(|piece| whole.extend_from_slice(piece));
                Cow::Owned(whole)
            }
        }
    }

    /// Bytes still free.
    #[must_use]
    pub fn room_bytes(&self) -> usize {
        self.bytes.len() - self.used
    }

    /// Trains that can still be opened.
    #[must_use]
    pub fn room_trains(&self) -> usize {
        // A train that was split for another try may have left more than that.
        self.trains_max.saturating_sub(self.trains.len())
    }

    /// Remembers that the path to `to` refuses GSO: its rows leave one by one from now on. True the first time.
    pub fn refuse_gso(&mut self, to: SocketAddr) -> bool {
        if self.gso_refused.len() >= GSO_REFUSED_MAX {
            self.gso_refused.clear();
        }
        if self.to == to {
            self.open = false;
            self.segments_max = 1;
        }
        self.gso_refused.insert(to)
    }

    /// The refusal had another reason.
    pub fn allow_gso(&mut self, to: SocketAddr) {
        self.gso_refused.remove(&to);
    }

    /// Keeps only the trains named in `indices` (ascending) for another try; `amend` may change one, and says whether it
    /// is to be cut into single datagrams. Bytes stay where they are.
    pub fn retain_for_retry(&mut self, indices: &[usize], mut amend: impl FnMut(&mut Train) -> bool) {
        self.open = false;
        let mut old = std::mem::replace(&mut self.trains, std::mem::take(&mut self.spare));
        for &index in indices {
            let Some(train) = old.get_mut(index) else { continue };
            if amend(train) && train.segments > 1 {
                self.split(train);
            } else {
                self.trains.push(*train);
            }
        }
        old.clear();
        self.spare = old;
        if self.trains.is_empty() {
            self.clear();
        }
    }

    /// Adds the datagrams of a train one by one.
    fn split(&mut self, train: &Train) {
        // Parts hold whole datagrams.
        let (mut part, mut in_part) = (train.start, 0);
        for segment in 0..train.segments {
            let at = segment * train.segment_bytes;
            let len = train.segment_bytes.min(train.len - at);
            let mut single =
                Train { start: train.start + at, len, segment_bytes: len, segments: 1, ..*train };
            let of_segment = |first: Origin| Origin { number: first.number + segment as u64, ..first };
            single.origin = train.origin.map(of_segment);
            single.sealed = train.sealed.map(of_segment);
            if single.origin.is_some() {
                let whole = self.parts[part];
                single.start = self.parts.len();
                single.parts = 1;
                self.parts.push(Part { start: whole.start + in_part, len });
                in_part += len;
                if in_part == whole.len {
                    (part, in_part) = (part + 1, 0);
                }
            }
            self.trains.push(single);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn shapes(batch: &TrainBatch) -> Vec<(u16, usize, usize, usize)> {
        batch
            .trains()
            .iter()
            .map(|t| (t.to.port(), t.segment_bytes, t.segments, batch.bytes(t).len()))
            .collect()
    }

    #[test]
    fn equal_rows_share_a_train_and_a_shorter_one_ends_it() {
        let mut batch = TrainBatch::new(4096, 8, 64);
        batch.begin(to(1), None);
        for len in [10, 10, 7, 10, 11] {
            batch.push(3, len).unwrap().fill(len as u8);
        }
        assert_eq!(shapes(&batch), [(1, 10, 3, 27), (1, 10, 1, 10), (1, 11, 1, 11)]);
        assert_eq!(&batch.bytes(&batch.trains()[0])[20..], &[7; 7]);
    }

    #[test]
    fn a_short_datagram_can_be_kept_out_of_a_train_of_longer_ones() {
        for (cut, trains) in [(65, 2), (100, 1)] {
            let mut batch = TrainBatch::new(1_000, 10, 10);
            batch.begin(to(1), None);
            for number in 0..3 {
                let len = if number == 2 { 65 } else { 100 };
                if number == 2 {
                    batch.cut_longer(cut);
                }
                assert!(batch.push_kept(Origin { flow: 1, number }, 100 * number as usize, len));
            }
            assert_eq!(batch.trains().len(), trains);
        }
    }

    #[test]
    fn kept_datagrams_are_gathered_and_split() {
        let mut batch = TrainBatch::new(100, 8, 64);
        batch.begin(to(1), None);
        batch.push(0, 10).unwrap().fill(1);
        let origin = |number| Origin { flow: 3, number };
        assert!(batch.push_kept(origin(7), 0, 10)); // An open train of the arena takes none of these.
        assert!(batch.push_kept(origin(8), 10, 10)); // Adjacent: one piece.
        assert!(batch.push_kept(origin(9), 40, 10)); // Elsewhere: another piece.
        assert!(batch.push_kept(origin(10), 50, 4)); // Shorter: the end.
        assert!(batch.push_kept(origin(11), 54, 4));
        assert!(batch.push_kept(origin(13), 58, 4)); // Not the next number.
        assert!(batch.push(0, 4).is_some());
        let mut memory: Vec<u8> = (0..100).collect();
        std::mem::swap(batch.lent(), &mut memory);
        assert_eq!(
            shapes(&batch),
            [(1, 10, 1, 10), (1, 10, 4, 34), (1, 4, 1, 4), (1, 4, 1, 4), (1, 4, 1, 4)]
        );
        let pieces: Vec<_> = batch.pieces(&batch.trains()[1]).map(<[u8]>::len).collect();
        assert_eq!(pieces, [20, 14]);
        let whole = batch.bytes(&batch.trains()[1]).into_owned();
        batch.retain_for_retry(&[1, 3], |train| train.segments > 1);
        assert_eq!(shapes(&batch).iter().map(|s| s.3).collect::<Vec<_>>(), [10, 10, 10, 4, 4]);
        let numbers: Vec<_> = batch.trains().iter().map(|t| t.origin.unwrap().number).collect();
        assert_eq!(numbers, [7, 8, 9, 10, 13]);
        let split: Vec<u8> =
            batch.trains()[..4].iter().flat_map(|train| batch.bytes(train).into_owned()).collect();
        assert_eq!(split, whole);
    }

    #[test]
    fn sealed_datagrams_say_whose_they_are_and_keep_their_numbers_when_split() {
        let mut batch = TrainBatch::new(200, 8, 64);
        batch.begin(to(1), None);
        batch.push(0, 10).unwrap().fill(1);
        for (flow, number, len) in [(3, 7, 10), (3, 8, 10), (3, 9, 4), (3, 11, 4), (4, 12, 4)] {
            batch.push_sealed(Origin { flow, number }, 0, len).unwrap().fill(number as u8);
        }
        batch.push(0, 4).unwrap().fill(2); // Nobody is told of this one.
        assert_eq!(
            shapes(&batch),
            [(1, 10, 1, 10), (1, 10, 3, 24), (1, 4, 1, 4), (1, 4, 1, 4), (1, 4, 1, 4)]
        );
        assert!(batch.trains().iter().all(|train| train.origin.is_none()), "they are in the arena");
        batch.retain_for_retry(&[0, 1, 4], |_| true);
        let whose: Vec<_> = batch.trains().iter().map(|train| train.sealed.map(|it| it.number)).collect();
        assert_eq!(whose, [None, Some(7), Some(8), Some(9), None]);
        assert_eq!(*batch.bytes(&batch.trains()[3]), [9; 4]);
    }

    #[test]
    fn a_run_is_placed_as_its_rows_one_by_one() {
        // Runs of (rows, bytes) into a batch of 4 trains of up to 5 segments, 100 bytes in all.
        for runs in [&[(3, 10), (4, 10), (9, 10)][..], &[(3, 10), (4, 7), (2, 7)], &[(9, 10), (9, 1)]] {
            let (mut by_run, mut by_row) = (TrainBatch::new(100, 4, 5), TrainBatch::new(100, 4, 5));
            by_run.begin(to(1), None);
            by_row.begin(to(1), None);
            for &(rows, bytes) in runs {
                let mut left = rows;
                while left > 0
                    && let Some(space) = by_run.push_run(3, bytes, left)
                {
                    left -= space.len() / bytes;
                }
                let placed = (0..rows).map_while(|_| by_row.push(3, bytes).map(|_| ())).count();
                assert_eq!((rows - left, shapes(&by_run)), (placed, shapes(&by_row)), "{runs:?}");
            }
        }
    }

    #[test]
    fn route_destination_and_limits_cut() {
        let mut batch = TrainBatch::new(100, 5, 2);
        batch.begin(to(1), None);
        assert!(batch.push(1, 10).is_some());
        assert!(batch.push(2, 10).is_some()); // Another route.
        assert!(batch.push(2, 10).is_some());
        assert!(batch.push(2, 10).is_some()); // Segment limit.
        batch.begin(to(2), None);
        assert!(batch.push(2, 10).is_some()); // Another destination.
        batch.begin(to(2), None);
        assert!(batch.push(2, 10).is_some()); // The same again: still open.
        assert_eq!(shapes(&batch).iter().map(|s| s.2).collect::<Vec<_>>(), [1, 2, 1, 2]);
        assert!(batch.push(2, 41).is_none()); // No bytes left.
        assert!(batch.push(3, 10).is_some());
        assert!(batch.push(4, 10).is_none()); // No train left.
    }

    #[test]
    fn a_refused_destination_gets_single_datagrams_and_retry_splits() {
        let mut batch = TrainBatch::new(4096, 64, 64);
        batch.begin(to(1), None);
        for len in [10, 10, 4] {
            batch.push(0, len).unwrap().fill(len as u8);
        }
        batch.begin(to(2), None);
        batch.push(0, 5).unwrap();
        assert!(batch.refuse_gso(to(1)));
        assert!(!batch.refuse_gso(to(1)));
        batch.retain_for_retry(&[0], |t| t.to == to(1));
        assert_eq!(shapes(&batch), [(1, 10, 1, 10), (1, 10, 1, 10), (1, 4, 1, 4)]);
        assert_eq!(*batch.bytes(&batch.trains()[2]), [4; 4]);
        batch.clear();
        batch.begin(to(1), None);
        batch.push(0, 5).unwrap();
        batch.push(0, 5).unwrap();
        assert_eq!(batch.trains().len(), 2);
    }

    /// A socket that is full time and again costs no allocation: a batch has two tables of trains, and both stay.
    #[test]
    fn what_goes_again_finds_memory_for_its_trains() {
        let mut batch = TrainBatch::new(4096, 64, 1);
        let mut places = std::collections::BTreeSet::new();
        for round in 0..10 {
            batch.begin(to(1), None);
            (0..64).for_each(|_| batch.push(0, 10).unwrap().fill(round));
            // All of it is left, then nothing.
            batch.retain_for_retry(&(0..64).collect::<Vec<_>>(), |_| false);
            assert_eq!(batch.trains().len(), 64);
            places.insert(batch.trains.as_ptr());
            batch.retain_for_retry(&[], |_| false);
            assert!(batch.trains().is_empty());
            places.insert(batch.trains.as_ptr());
        }
        assert_eq!(places.len(), 2);
    }
}

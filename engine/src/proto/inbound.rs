//! Incoming operations: rows to messages, each handed over at most once within the dedup horizon, in bounded memory.
//!
//! A row is confirmed (by the caller) exactly when [`Inbound::handle_data`] says that the message is the application's,
//! its chunk is kept, or it was so before. Everything else is a [`DropReason`] and is not confirmed: the sender tries
//! again or learns the truth at its deadline.

use super::ack_tracker::OpId;
use super::dedup::{PageRef, Seen, SlotWindows, Tombstone, Tombstones, WindowId};
use super::reassembly::{Partial, Stored};
use super::shares::{Host, Shares};
use super::timer_wheel::TimerWheel;
use crate::config::Config;
use crate::hash::{Hasher, Map, Seed};
use crate::units::{Instant, UnixMicros};
use crate::wire::DropReason;
use crate::wire::csv::{DataRow, Epoch};
use std::net::SocketAddr;
use std::time::Duration;

/// Partial messages keep buffers up to this size between uses: a message of 64 KiB and the slack of its base64.
const KEPT_BYTES_MAX: usize = 96 << 10;
/// The size of a chunk is estimated from its base64, and may be that much less.
pub(super) const ESTIMATE_SLACK: usize = 3;
/// No partial: an index that is in no slab.
const NO_KEY: (u64, u32) = (0, NO_PARTIAL);
/// Closed partials kept for reuse, and the share of `partial_bytes_max` their buffers may take.
const SPARE_PARTIALS_MAX: usize = 64;
const SPARE_SHARE: u64 = 64;
/// One that may exceed the limits (R-PARTIAL-3), and to which nothing was added for so long, makes way for another.
const EXCEEDING_IDLE: Duration = Duration::from_secs(2);
/// No partial.
const NO_PARTIAL: u32 = u32::MAX;

/// A complete message on its way to the application.
#[derive(Debug)]
pub enum Payload<'a> {
    /// Valid during the call.
    Borrowed(&'a [u8]),
    /// A reassembled message; the buffer may be taken.
    Owned(&'a mut Vec<u8>),
}

impl Payload<'_> {
    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Owned(bytes) => bytes,
        }
    }
}

/// What the application said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The message is its own now.
    Accepted,
    /// Not now.
    Refused,
    /// The receive bucket is full.
    NoRoom,
}

/// What a row that is to be confirmed has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handled {
    /// Its message went to the application: so many bytes.
    Delivered(usize),
    /// Its chunk is kept.
    Stored,
}

/// How a partial message's sender is remembered once it is closed.
#[derive(Clone, Copy, Debug)]
enum Origin {
    Engine { window: WindowId, id: OpId },
    V1,
}

#[derive(Debug)]
struct Entry {
    partial: Partial,
    key: u64,
    from: SocketAddr,
    origin: Origin,
    charged_bytes: u64,
    added_at: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Usage {
    partials: u32,
    bytes: u64,
    /// The partial that may exceed the peer's limit, if any.
    exceeding: u32,
}

const NO_USAGE: Usage = Usage { partials: 0, bytes: 0, exceeding: NO_PARTIAL };

/// See the module.
pub struct Inbound {
    windows: SlotWindows,
    tombstones: Tombstones,
    hasher: Hasher,
    entries: Vec<Option<Entry>>,
    free: Vec<u32>,
    spare: Vec<Partial>,
    spare_bytes: u64,
    by_key: Map<u64, u32>,
    /// The partial the row before belonged to: chunks come in runs.
    last_key: (u64, u32),
    usage: Map<SocketAddr, Usage>,
    /// Places and bytes of partial messages that each host has (R-SHARE-1).
    shares: Shares,
    byte_shares: Shares,
    timers: TimerWheel,
    charged_bytes: u64,
    /// The partial that may exceed `partial_bytes_max`, if any.
    exceeding: u32,
    scratch: Vec<u8>,
    /// A message whose chunks came out of order, while it is handed over.
    gathered: Vec<u8>,
    expired_total: u64,
    limits: Limits,
}

struct Limits {
    message_bytes_max: usize,
    chunk_count_max: u32,
    partials_max: usize,
    partials_per_peer_max: u32,
    partial_bytes_max: u64,
    partial_bytes_per_peer_max: u64,
    /// What one message holds at most, and by how much the limits above may be exceeded.
    message_held_max: u64,
    partial_idle_max: Duration,
}

impl Inbound {
    /// An empty inbound side.
    #[must_use]
    pub fn new(config: &Config, seed: &Seed, now: Instant) -> Self {
        let hasher = seed.hasher();
        Self {
            windows: SlotWindows::new(
                config.peers_max as usize,
                config.dedup_pages_max as usize,
                config.dedup_horizon,
                config.partial_idle_max,
                &hasher,
            ),
            tombstones: Tombstones::new(config.tombstones_max as usize, config.dedup_horizon, &hasher),
            entries: Vec::new(),
            free: Vec::new(),
            spare: Vec::new(),
            spare_bytes: 0,
            by_key: hasher.map(),
            last_key: NO_KEY,
            usage: hasher.map(),
            shares: Shares::new(config.partials_max.into(), &hasher),
            byte_shares: Shares::new(config.partial_bytes_max, &hasher),
            timers: TimerWheel::new(now),
            charged_bytes: 0,
            exceeding: NO_PARTIAL,
            // A row's payload is at most 3/4 of a datagram.
            scratch: vec![0; 64 << 10],
            gathered: Vec::new(),
            expired_total: 0,
            limits: Limits {
                message_bytes_max: config.message_bytes_max as usize,
                chunk_count_max: config.chunk_count_max,
                partials_max: config.partials_max as usize,
                partials_per_peer_max: config.partials_per_peer_max,
                partial_bytes_max: config.partial_bytes_max,
                partial_bytes_per_peer_max: config.partial_bytes_per_peer_max,
                message_held_max: config.partial_held_max(),
                partial_idle_max: config.partial_idle_max,
            },
            hasher,
        }
    }

    /// Must be called after the rows of one train.
    pub fn end_train(&mut self) {
        self.windows.end_train();
    }

    /// Handles one data row; `raw` is the row as received.
    ///
    /// # Errors
    /// Why it had no effect. It is confirmed all the same if the reason is [`DropReason::Duplicate`].
    pub fn handle_data(
        &mut self,
        now: Instant,
        from: SocketAddr,
        row: &DataRow<'_>,
        raw: &[u8],
        deliver: impl FnOnce(Option<UnixMicros>, Payload<'_>) -> Delivery,
    ) -> Result<Handled, DropReason> {
        match (row.id.native, row.epoch) {
            (Some(id), Some(epoch)) => {
                let window = self.window(now, from, epoch)?;
                self.handle_engine_row((now, from), row, (OpId(id), epoch), window, deliver)
            }
            _ if row.chunk_count == 1 => self.handle_v1_single(now, from, row, raw, deliver),
            _ => self.handle_v1_chunk(now, from, row, deliver),
        }
    }

    /// The window of an engine's rows, for [`handle_single`](Self::handle_single).
    ///
    /// # Errors
    /// There is none left.
    pub fn window(&mut self, now: Instant, from: SocketAddr, epoch: Epoch) -> Result<WindowId, DropReason> {
        self.windows.window(from, epoch.0, now).ok_or(DropReason::DedupFull)
    }

    /// Handles a single-chunk row of an engine, decoded already, as [`handle_data`](Self::handle_data) does.
    ///
    /// # Errors
    /// As `handle_data`.
    #[inline]
    pub fn handle_single(
        &mut self,
        now: Instant,
        window: WindowId,
        id: OpId,
        payload: &[u8],
        deliver: impl FnOnce(Payload<'_>) -> Delivery,
    ) -> Result<(), DropReason> {
        let page = self.see(now, window, id)?;
        if payload.len() > self.limits.message_bytes_max {
            return Err(DropReason::MessageTooLarge);
        }
        verdict(deliver(Payload::Borrowed(payload)))?;
        self.windows.close_in(page, id.slot(), id.generation());
        Ok(())
    }

    /// Whether the operation is new; and a place to remember that it was closed.
    #[inline]
    fn see(&mut self, now: Instant, window: WindowId, id: OpId) -> Result<PageRef, DropReason> {
        let (seen, page) = self
            .windows
            .reserve_and_see(window, id.slot(), id.generation(), now)
            .ok_or(DropReason::DedupFull)?;
        match seen {
            Seen::New => Ok(page),
            Seen::Stale => Err(DropReason::Stale),
            Seen::Duplicate => Err(DropReason::Duplicate),
        }
    }

    fn handle_engine_row(
        &mut self,
        (now, from): (Instant, SocketAddr),
        row: &DataRow<'_>,
        (id, epoch): (OpId, Epoch),
        window: WindowId,
        deliver: impl FnOnce(Option<UnixMicros>, Payload<'_>) -> Delivery,
    ) -> Result<Handled, DropReason> {
        let page = self.see(now, window, id)?;
        if row.chunk_count == 1 {
            let bytes = self.deliver_single(row, deliver)?;
            self.windows.close_in(page, id.slot(), id.generation());
            return Ok(Handled::Delivered(bytes));
        }
        let key = self.engine_key(epoch, id);
        let handled = self.handle_chunk(now, from, row, key, Origin::Engine { window, id }, deliver);
        if matches!(handled, Ok(Handled::Delivered(_))) {
            // Its first rows may have come from another address, whose window it was opened in.
            self.windows.close_in(page, id.slot(), id.generation());
        }
        handled
    }

    fn handle_v1_single(
        &mut self,
        now: Instant,
        from: SocketAddr,
        row: &DataRow<'_>,
        raw: &[u8],
        deliver: impl FnOnce(Option<UnixMicros>, Payload<'_>) -> Delivery,
    ) -> Result<Handled, DropReason> {
        let hash = self.hasher.hash((from, 1u8, raw));
        if self.tombstones.find(hash, now).is_some() {
            return Err(DropReason::Duplicate);
        }
        let host = Host::from(from.ip());
        if !self.tombstones.has_room(host, now) {
            return Err(DropReason::DedupFull);
        }
        let bytes = self.deliver_single(row, deliver)?;
        self.tombstones.insert(hash, Tombstone::Row, host, now);
        Ok(Handled::Delivered(bytes))
    }

    fn handle_v1_chunk(
        &mut self,
        now: Instant,
        from: SocketAddr,
        row: &DataRow<'_>,
        deliver: impl FnOnce(Option<UnixMicros>, Payload<'_>) -> Delivery,
    ) -> Result<Handled, DropReason> {
        let key = self.hasher.hash((from, 2u8, row.id.text));
        let closed = self.tombstones.find(key, now);
        // A row of the closed message is not newer than the newest of it; a newer one opens another message that got
        // the same 32-bit id (R-DEDUP-3).
        let late = |count: u32, newest: Option<UnixMicros>| count == row.chunk_count && row.sent_at <= newest;
        match closed {
            Some(Tombstone::Delivered { chunk_count, newest }) if late(chunk_count, newest) => {
                return Err(DropReason::Duplicate);
            }
            Some(Tombstone::Expired { chunk_count, newest }) if late(chunk_count, newest) => {
                return Err(DropReason::Stale);
            }
            _ => {}
        }
        if !self.tombstones.has_room(Host::from(from.ip()), now) {
            return Err(DropReason::DedupFull);
        }
        self.handle_chunk(now, from, row, key, Origin::V1, deliver)
    }

    fn deliver_single(
        &mut self,
        row: &DataRow<'_>,
        deliver: impl FnOnce(Option<UnixMicros>, Payload<'_>) -> Delivery,
    ) -> Result<usize, DropReason> {
        let bytes = row.payload.decode_into(&mut self.scratch)?;
        if bytes > self.limits.message_bytes_max {
            return Err(DropReason::MessageTooLarge);
        }
        verdict(deliver(row.sent_at, Payload::Borrowed(&self.scratch[..bytes])))?;
        Ok(bytes)
    }

    fn handle_chunk(
        &mut self,
        now: Instant,
        from: SocketAddr,
        row: &DataRow<'_>,
        key: u64,
        origin: Origin,
        deliver: impl FnOnce(Option<UnixMicros>, Payload<'_>) -> Delivery,
    ) -> Result<Handled, DropReason> {
        let index = if self.last_key.0 == key && self.last_key != NO_KEY {
            self.last_key.1
        } else {
            match self.by_key.get(&key) {
                Some(&index) => index,
                None => self.open(now, from, row, key, origin)?,
            }
        };
        self.last_key = (key, index);
        let handled = self.add_chunk(now, row, index, deliver);
        if handled.is_err() {
            self.close_if_empty(index);
        }
        handled
    }

    fn add_chunk(
        &mut self,
        now: Instant,
        row: &DataRow<'_>,
        index: u32,
        deliver: impl FnOnce(Option<UnixMicros>, Payload<'_>) -> Delivery,
    ) -> Result<Handled, DropReason> {
        let bytes_max = row.payload.decoded_bytes_max();
        let Some(Some(entry)) = self.entries.get_mut(index as usize) else { return Err(DropReason::Stale) };
        if entry.partial.chunk_count() != row.chunk_count {
            return Err(DropReason::LengthChanged);
        }
        if !entry.partial.has(row.chunk_index) {
            let cost = entry.partial.cost_bytes(row.chunk_index, bytes_max) as u64;
            if entry.partial.payload_bytes() + bytes_max > self.limits.message_bytes_max + ESTIMATE_SLACK {
                return Err(DropReason::MessageTooLarge);
            }
            if cost > 0 && !self.may_grow(index, cost, now) {
                return Err(DropReason::PartialsFull);
            }
        }
        let Some(Some(entry)) = self.entries.get_mut(index as usize) else { return Err(DropReason::Stale) };
        let stored = entry
            .partial
            .store(row.chunk_index, bytes_max, row.sent_at, |space| row.payload.decode_into(space));
        if stored.is_ok() {
            // A duplicate counts, too: its sender may rest from now on, not from when the chunk was new (R-PARTIAL-1).
            entry.added_at = now;
        }
        // Whatever became of the chunk, the log may have grown for it.
        self.recharge(index);
        match stored? {
            Stored::Duplicate => return Err(DropReason::Duplicate),
            Stored::Incomplete => return Ok(Handled::Stored),
            Stored::Complete => {}
        }
        let Some(Some(entry)) = self.entries.get_mut(index as usize) else { return Err(DropReason::Stale) };
        let sent_at = entry.partial.newest();
        let chunk_count = entry.partial.chunk_count();
        let bytes = entry.partial.payload_bytes();
        if bytes > self.limits.message_bytes_max {
            entry.partial.unstore_last(row.chunk_index);
            return Err(DropReason::MessageTooLarge);
        }
        let delivery = deliver(sent_at, Payload::Owned(entry.partial.whole(&mut self.gathered)));
        self.gathered.clear();
        self.gathered.shrink_to(KEPT_BYTES_MAX);
        if let Err(reason) = verdict(delivery) {
            // Its last chunk is not confirmed and comes again.
            entry.partial.unstore_last(row.chunk_index);
            self.recharge(index);
            return Err(reason);
        }
        match entry.origin {
            Origin::Engine { window, id } => self.windows.close(window, id.slot(), id.generation()),
            // `handle_v1_chunk` made sure of the room.
            Origin::V1 => {
                let host = Host::from(entry.from.ip());
                let tombstone = Tombstone::Delivered { chunk_count, newest: sent_at };
                self.tombstones.insert(entry.key, tombstone, host, now);
            }
        }
        self.close(index);
        Ok(Handled::Delivered(bytes))
    }

    fn open(
        &mut self,
        now: Instant,
        from: SocketAddr,
        row: &DataRow<'_>,
        key: u64,
        origin: Origin,
    ) -> Result<u32, DropReason> {
        if row.chunk_count > self.limits.chunk_count_max {
            return Err(DropReason::MessageTooLarge);
        }
        let used = self.entries.len() - self.free.len();
        let usage = self.usage.get(&from).copied().unwrap_or(NO_USAGE);
        let host = Host::from(from.ip());
        let full = used >= self.limits.partials_max || !self.shares.has_room(host);
        if full || usage.partials >= self.limits.partials_per_peer_max {
            return Err(DropReason::PartialsFull);
        }
        self.shares.add(host, 1);
        let mut partial = self.take_spare(usage.bytes);
        partial.open(row.chunk_count, self.limits.message_bytes_max + ESTIMATE_SLACK);
        let entry = Entry { partial, key, from, origin, charged_bytes: 0, added_at: now };
        let index = match self.free.pop() {
            Some(index) => {
                self.entries[index as usize] = Some(entry);
                index
            }
            None => {
                self.entries.push(Some(entry));
                (self.entries.len() - 1) as u32
            }
        };
        self.by_key.insert(key, index);
        self.usage.entry(from).or_insert(NO_USAGE).partials += 1;
        self.timers.arm(index, now + self.limits.partial_idle_max);
        self.recharge(index);
        Ok(index)
    }

    /// A buffer used before, if one is there and within the limits; else an empty one, which costs nothing yet.
    fn take_spare(&mut self, peer_bytes: u64) -> Partial {
        let Some(partial) = self.spare.pop() else { return Partial::default() };
        let held = partial.held_bytes() as u64;
        self.spare_bytes -= held;
        let fits = peer_bytes + held <= self.limits.partial_bytes_per_peer_max
            && self.charged_bytes + self.spare_bytes + held <= self.limits.partial_bytes_max;
        if fits { partial } else { Partial::default() }
    }

    /// Whether the limits allow the partial `cost` more bytes.
    fn may_grow(&mut self, index: u32, cost: u64, now: Instant) -> bool {
        let Some(Some(entry)) = self.entries.get(index as usize) else { return false };
        let from = entry.from;
        let usage = self.usage.get(&from).copied().unwrap_or(NO_USAGE);
        if self.charged_bytes + self.spare_bytes + cost > self.limits.partial_bytes_max {
            self.spare.clear();
            self.spare_bytes = 0;
        }
        let total_bytes = self.charged_bytes + cost;
        let peer_bytes = usage.bytes + cost;
        let in_share = self.byte_shares.lacks(Host::from(from.ip()), cost) == 0;
        let in_total = total_bytes <= self.limits.partial_bytes_max && in_share;
        let in_peers = peer_bytes <= self.limits.partial_bytes_per_peer_max;
        if in_total && in_peers {
            return true;
        }
        // R-PARTIAL-3: one may go beyond, by what one message can take. It completes and makes room. Without it, many
        // that came half way would wait for each other, all of them in vain.
        let most = self.limits.message_held_max;
        if total_bytes > self.limits.partial_bytes_max + most
            || peer_bytes > self.limits.partial_bytes_per_peer_max + most
            || !in_total && self.exceeds_now(self.exceeding, index, now)
            || !in_peers && self.exceeds_now(usage.exceeding, index, now)
        {
            return false;
        }
        if !in_total {
            self.exceeding = index;
        }
        if !in_peers && let Some(usage) = self.usage.get_mut(&from) {
            usage.exceeding = index;
        }
        true
    }

    /// Whether `holder`, and not `index`, is the one that may exceed a limit.
    fn exceeds_now(&self, holder: u32, index: u32, now: Instant) -> bool {
        let Some(Some(entry)) = self.entries.get(holder as usize) else { return false };
        holder != index && now.since(entry.added_at) <= EXCEEDING_IDLE
    }

    /// Brings the accounts up to what the partial holds now.
    fn recharge(&mut self, index: u32) {
        let Some(entry) = self.entries[index as usize].as_mut() else { return };
        let held = entry.partial.held_bytes() as u64;
        let before = std::mem::replace(&mut entry.charged_bytes, held);
        if held == before {
            return;
        }
        self.charged_bytes = self.charged_bytes + held - before;
        let host = Host::from(entry.from.ip());
        if held > before {
            self.byte_shares.add(host, held - before);
        } else {
            self.byte_shares.remove(host, before - held);
        }
        if let Some(usage) = self.usage.get_mut(&entry.from) {
            usage.bytes = usage.bytes + held - before;
        }
    }

    /// A partial that was opened for a row which was then refused: nothing of it was confirmed, it is as if it never was.
    fn close_if_empty(&mut self, index: u32) {
        if self.entries[index as usize].as_ref().is_some_and(|entry| entry.partial.is_empty()) {
            self.close(index);
        }
    }

    /// Frees a partial message that was delivered, or has expired.
    fn close(&mut self, index: u32) {
        let Some(entry) = self.entries[index as usize].take() else { return };
        self.timers.disarm(index);
        self.free.push(index);
        self.last_key = NO_KEY;
        self.by_key.remove(&entry.key);
        self.charged_bytes -= entry.charged_bytes;
        if self.exceeding == index {
            self.exceeding = NO_PARTIAL;
        }
        let host = Host::from(entry.from.ip());
        self.shares.remove(host, 1);
        self.byte_shares.remove(host, entry.charged_bytes);
        if let Some(usage) = self.usage.get_mut(&entry.from) {
            usage.partials -= 1;
            usage.bytes -= entry.charged_bytes;
            if usage.exceeding == index {
                usage.exceeding = NO_PARTIAL;
            }
            if usage.partials == 0 {
                self.usage.remove(&entry.from);
            }
        }
        let mut partial = entry.partial;
        if self.spare.len() < SPARE_PARTIALS_MAX {
            partial.close(KEPT_BYTES_MAX);
            let held = partial.held_bytes() as u64;
            let kept = self.spare_bytes + held;
            if kept <= self.limits.partial_bytes_max / SPARE_SHARE
                && self.charged_bytes + kept <= self.limits.partial_bytes_max
            {
                self.spare_bytes = kept;
                self.spare.push(partial);
            }
        }
    }

    /// Expires idle partial messages. One that cannot be remembered as expired stays a while longer: its late chunks must
    /// never be confirmed into a new partial message that nobody will complete (R-PARTIAL-2).
    pub fn handle_timers(&mut self, now: Instant) {
        self.timers.advance(now);
        while let Some(index) = self.timers.pop_due() {
            let Some(entry) = self.entries[index as usize].as_ref() else { continue };
            let idle_at = entry.added_at + self.limits.partial_idle_max;
            if idle_at > now {
                self.timers.arm(index, idle_at);
                continue;
            }
            let remembered = match entry.origin {
                Origin::Engine { window, id } => self.windows.expire(window, id.slot(), id.generation(), now),
                Origin::V1 => {
                    let (chunk_count, newest) = (entry.partial.chunk_count(), entry.partial.newest());
                    let host = Host::from(entry.from.ip());
                    let room = self.tombstones.has_room(host, now);
                    if room {
                        let tombstone = Tombstone::Expired { chunk_count, newest };
                        self.tombstones.insert(entry.key, tombstone, host, now);
                    }
                    room
                }
            };
            if remembered {
                self.close(index);
                self.expired_total += 1;
            } else {
                self.timers.arm(index, now + self.limits.partial_idle_max);
            }
        }
    }

    /// When [`handle_timers`](Self::handle_timers) has something to do without input.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.timers.next_deadline()
    }

    /// What is remembered of rows that came: windows, pages, tombstones.
    #[cfg(any(test, feature = "sim"))]
    #[must_use]
    pub fn remembered(&self) -> [usize; 3] {
        let [windows, pages] = self.windows.kept();
        [windows, pages, self.tombstones.kept()]
    }

    /// Partial messages held.
    #[cfg(any(test, feature = "sim"))]
    #[must_use]
    pub fn partials(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// Bytes held in them.
    #[cfg(any(test, feature = "sim"))]
    #[must_use]
    pub const fn partial_bytes(&self) -> u64 {
        self.charged_bytes
    }

    /// Partial messages expired so far.
    #[must_use]
    pub const fn expired_total(&self) -> u64 {
        self.expired_total
    }

    /// Without the address: the sender's may change amid a message (a NAT), and every chunk of it is confirmed wherever it came
    /// from (R-DEDUP-7). Who does not see the rows cannot guess the 64 bits of the id.
    fn engine_key(&self, epoch: Epoch, id: OpId) -> u64 {
        self.hasher.hash((epoch, 3u8, id))
    }
}

fn verdict(delivery: Delivery) -> Result<(), DropReason> {
    match delivery {
        Delivery::Accepted => Ok(()),
        Delivery::Refused => Err(DropReason::Refused),
        Delivery::NoRoom => Err(DropReason::BucketFull),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Preset;
    use crate::wire::csv::{ChunkPlace, Row, Scratch, Stamp, data_row_bytes, decode, encode_data};

    fn row(id: u64, index: u32, count: u32, payload: &str) -> Vec<u8> {
        let place = (count > 1).then_some(ChunkPlace { index, count });
        let mut row = vec![0; data_row_bytes(payload.len(), place)];
        encode_data(&mut row, id, place, payload.as_bytes(), &Stamp::new(UnixMicros(7), Epoch(9)));
        row
    }

    /// Of the sender at a port: no two draw the same generation.
    fn id_of(port: u16, slot: u32) -> u64 {
        OpId::new(std::num::NonZeroU32::MIN.saturating_add(u32::from(port) << 8), slot, 0).0
    }

    /// What became of a raw row, and the message it completed.
    fn handle(
        inbound: &mut Inbound,
        now: Instant,
        raw: &[u8],
    ) -> (Result<Handled, DropReason>, Option<Vec<u8>>) {
        handle_from(inbound, now, 1, raw)
    }

    fn handle_from(
        inbound: &mut Inbound,
        now: Instant,
        port: u16,
        raw: &[u8],
    ) -> (Result<Handled, DropReason>, Option<Vec<u8>>) {
        handle_at(inbound, now, SocketAddr::from(([127, 0, 0, 1], port)), raw)
    }

    fn handle_at(
        inbound: &mut Inbound,
        now: Instant,
        from: SocketAddr,
        raw: &[u8],
    ) -> (Result<Handled, DropReason>, Option<Vec<u8>>) {
        let mut scratch = Scratch::new();
        let Ok(Row::Data(data)) = decode(raw, &mut scratch) else { panic!("no data row") };
        let mut delivered = None;
        let handled = inbound.handle_data(now, from, &data, raw, |_, payload| {
            delivered = Some(payload.bytes().to_vec());
            Delivery::Accepted
        });
        inbound.end_train();
        (handled, delivered)
    }

    fn inbound(now: Instant) -> Inbound {
        Inbound::new(&Config::preset(Preset::Small), &Seed::from_number(3), now)
    }

    /// What is charged is what is held, in total and to each peer, and within the limits.
    fn check_accounts(inbound: &Inbound) {
        let (mut total, mut peers) = (0, std::collections::BTreeMap::<SocketAddr, u64>::new());
        for entry in inbound.entries.iter().flatten() {
            let held = entry.partial.held_bytes() as u64;
            total += held;
            *peers.entry(entry.from).or_default() += held;
        }
        assert_eq!(inbound.charged_bytes, total);
        for (from, &held) in &peers {
            assert_eq!(inbound.usage[from].bytes, held);
            assert!(held <= inbound.limits.partial_bytes_per_peer_max + inbound.limits.message_held_max);
        }
        assert_eq!(inbound.usage.len(), peers.len());
        let spare: u64 = inbound.spare.iter().map(|partial| partial.held_bytes() as u64).sum();
        assert_eq!(inbound.spare_bytes, spare);
        assert!(spare <= inbound.limits.partial_bytes_max / SPARE_SHARE);
        assert!(total + spare <= inbound.limits.partial_bytes_max + inbound.limits.message_held_max);
    }

    /// All chunks are confirmed, whatever address they came from: they have to be one message.
    #[test]
    fn a_message_whose_sender_moves_amid_it_is_one() {
        let now = Instant::from_ns(1 << 40);
        let mut inbound = inbound(now);
        let id = OpId::new(std::num::NonZeroU32::MIN, 5, 0).0;
        let mut chunk = |port, index| {
            let (handled, delivered) = handle_from(&mut inbound, now, port, &row(id, index, 3, "abc"));
            (handled, delivered, inbound.partials())
        };
        assert_eq!(chunk(1, 0), (Ok(Handled::Stored), None, 1));
        assert_eq!(chunk(2, 1), (Ok(Handled::Stored), None, 1));
        assert_eq!(chunk(2, 0), (Err(DropReason::Duplicate), None, 1));
        assert_eq!(chunk(2, 2), (Ok(Handled::Delivered(9)), Some(b"abcabcabc".to_vec()), 0));
        // It is closed for both addresses.
        for port in [1, 2] {
            assert_eq!(chunk(port, 2), (Err(DropReason::Duplicate), None, 0));
        }
        check_accounts(&inbound);
    }

    #[test]
    fn a_refused_row_leaves_nothing_behind_that_is_not_charged() {
        let now = Instant::from_ns(1 << 40);
        let limits = Config { message_bytes_max: 100_000, ..Config::preset(Preset::Small) };
        let mut inbound = Inbound::new(&limits, &Seed::from_number(3), now);
        // Base64 that ends inside a group: of the first row of a message, and of another.
        let bad = "A".repeat(60_001);
        let first = format!(",3f2a9c1e,16384,0,{bad},1.5");
        assert_eq!(handle(&mut inbound, now, first.as_bytes()).0, Err(DropReason::BadBase64));
        check_accounts(&inbound);
        assert_eq!((inbound.partials(), inbound.partial_bytes()), (0, 0));
        let mut inbound = Inbound::new(&limits, &Seed::from_number(3), now);
        let good = format!(",3f2a9c1e,3,0,{},1.5", &bad[..400]);
        assert_eq!(handle(&mut inbound, now, good.as_bytes()).0, Ok(Handled::Stored));
        let held = inbound.partial_bytes();
        let second = format!(",3f2a9c1e,3,2,{bad},1.5");
        assert_eq!(handle(&mut inbound, now, second.as_bytes()).0, Err(DropReason::BadBase64));
        check_accounts(&inbound);
        assert!(inbound.partial_bytes() > held, "the log had grown before the text turned out to be bad");
        assert_eq!(inbound.partials(), 1);
        // A message that turns out too large by a byte only when its last chunk is decoded.
        let id = OpId::new(std::num::NonZeroU32::MIN, 5, 0).0;
        for index in 0..2 {
            let chunk = row(id, index, 3, &"x".repeat(33_000));
            assert_eq!(handle(&mut inbound, now, &chunk).0, Ok(Handled::Stored));
        }
        let last = row(id, 2, 3, &"x".repeat(34_001));
        assert_eq!(handle(&mut inbound, now, &last).0, Err(DropReason::MessageTooLarge));
        check_accounts(&inbound);
    }

    /// Delivered messages of `messages`, (port, slot) each, of the largest size, all coming at the same pace.
    fn overload(messages: &[(u16, u32)]) -> usize {
        const CHUNK: usize = 40_000;
        let mut now = Instant::from_ns(1 << 40);
        let mut inbound = inbound(now);
        let bytes = inbound.limits.message_bytes_max;
        let count = bytes.div_ceil(CHUNK) as u32;
        let mut next = vec![0; messages.len()];
        let text = "x".repeat(CHUNK);
        let mut delivered = 0;
        // As long as a sender tries a row.
        for _ in 0..800 {
            now += Duration::from_millis(10);
            for (&(port, slot), next) in messages.iter().zip(&mut next) {
                if *next == count {
                    continue;
                }
                let chunk = &text[..CHUNK.min(bytes - *next as usize * CHUNK)];
                let id = id_of(port, slot);
                match handle_from(&mut inbound, now, port, &row(id, *next, count, chunk)).0 {
                    Ok(Handled::Stored) => *next += 1,
                    Ok(Handled::Delivered(_)) => {
                        *next += 1;
                        delivered += 1;
                    }
                    Err(reason) => assert_eq!(reason, DropReason::PartialsFull),
                }
                check_accounts(&inbound);
            }
        }
        delivered
    }

    #[test]
    fn of_messages_that_do_not_fit_together_one_after_the_other_completes() {
        let peers: Vec<(u16, u32)> = (1..=12).map(|port| (port, 5)).collect();
        assert_eq!(overload(&peers), peers.len(), "R-PARTIAL-3, in total");
        let of_one: Vec<(u16, u32)> = (1..=6).map(|slot| (1, slot)).collect();
        assert_eq!(overload(&of_one), of_one.len(), "R-PARTIAL-3, of one peer");
    }

    /// It may hold the memory and send nothing more.
    #[test]
    fn the_one_that_may_exceed_makes_way_when_it_rests() {
        let mut now = Instant::from_ns(1 << 40);
        let config = Config {
            message_bytes_max: 1 << 20,
            // Of which one host gets 1 MiB (R-SHARE-1).
            partial_bytes_max: (1u64 << 20).div_ceil(3) * 4,
            partial_bytes_per_peer_max: 1 << 20,
            ..Config::preset(Preset::Small)
        };
        let mut inbound = Inbound::new(&config, &Seed::from_number(3), now);
        let id = |port| id_of(port, 5);
        let (text, count) = ("x".repeat(60_000), 17);
        // Peers 1 to 4 fill the memory; 1 goes beyond it and is not heard of again.
        for index in 0..5 {
            for port in 1..=4 {
                let handled = handle_from(&mut inbound, now, port, &row(id(port), index, count, &text)).0;
                let stored = index < 4 || port == 1;
                assert_eq!(handled.is_ok(), stored, "{index} {port}: {handled:?}");
            }
        }
        now += EXCEEDING_IDLE;
        assert!(handle_from(&mut inbound, now, 2, &row(id(2), 4, count, &text)).0.is_err());
        now += Duration::from_millis(1);
        assert!(handle_from(&mut inbound, now, 2, &row(id(2), 4, count, &text)).0.is_ok());
        assert!(handle_from(&mut inbound, now, 1, &row(id(1), 9, count, &text)).0.is_err());
        check_accounts(&inbound);
    }

    /// R-SHARE-1: of places, where messages are small, and of bytes, where they may become large.
    #[test]
    fn one_host_leaves_places_and_bytes_of_partial_messages_to_others() {
        let now = Instant::from_ns(1 << 40);
        for (count, bytes, stored_min, stored_max) in [(2, 2, 192, 192), (16_384, 100, 48, 49)] {
            let (mut inbound, text) = (inbound(now), "x".repeat(bytes));
            let mut stored = 0;
            for number in 0..1_000_u32 {
                let id = OpId::new(std::num::NonZeroU32::MIN, number, 0).0;
                let port = 1 + (number % 10) as u16;
                match handle_from(&mut inbound, now, port, &row(id, 0, count, &text)).0 {
                    Ok(_) => stored += 1,
                    Err(reason) => assert_eq!(reason, DropReason::PartialsFull),
                }
                check_accounts(&inbound);
            }
            assert!((stored_min..=stored_max).contains(&stored), "{stored} of {count} chunks");
            let other = SocketAddr::from(([127, 0, 0, 2], 1));
            // Another one: by (epoch, op id) it would be the first host's, moved (R-DEDUP-7).
            let id = OpId::new(std::num::NonZeroU32::MIN, 5_000, 0).0;
            for index in 0..3 {
                let handled = handle_at(&mut inbound, now, other, &row(id, index, 3, "abc")).0;
                assert!(handled.is_ok(), "{handled:?}");
            }
            // What it gives back it may have again.
            inbound.handle_timers(now + Duration::from_secs(11));
            assert_eq!((inbound.partials(), inbound.partial_bytes()), (0, 0));
            let first =
                handle_from(&mut inbound, now + Duration::from_secs(11), 99, &row(id, 0, count, &text)).0;
            assert_eq!(first, Ok(Handled::Stored));
        }
    }

    /// A host keeps its partial messages alive for a minute with a row of each every few seconds. It holds its share that long and
    /// no more, others are served beside it, and once it stops all of it ends.
    #[test]
    fn a_slow_loris_holds_its_share_and_others_are_served() {
        const EVERY: Duration = Duration::from_secs(3);
        const CHUNKS: u32 = 1_000;
        let mut now = Instant::from_ns(1 << 40);
        let mut inbound = inbound(now);
        let idle = inbound.limits.partial_idle_max;
        let mut held = Vec::new();
        for number in 0..300_u32 {
            let (port, id) = (1 + (number % 5) as u16, OpId::new(std::num::NonZeroU32::MIN, number, 0).0);
            match handle_from(&mut inbound, now, port, &row(id, 0, CHUNKS, "x")).0 {
                Ok(_) => held.push((port, id)),
                Err(reason) => assert_eq!(reason, DropReason::PartialsFull),
            }
        }
        assert_eq!(held.len(), 192, "three quarters of the places (R-SHARE-1)");
        let (steps, other) = (20, SocketAddr::from(([127, 0, 0, 2], 1)));
        assert!(EVERY * steps > 5 * idle);
        for step in 1..=steps {
            now += EVERY;
            inbound.handle_timers(now);
            for &(port, id) in &held {
                let handled = handle_from(&mut inbound, now, port, &row(id, step, CHUNKS, "x")).0;
                assert_eq!(handled, Ok(Handled::Stored), "step {step}");
            }
            let more = OpId::new(std::num::NonZeroU32::MIN, 1_000 + step, 0).0;
            let refused = handle_from(&mut inbound, now, 1, &row(more, 0, CHUNKS, "x")).0;
            assert_eq!(refused, Err(DropReason::PartialsFull));
            assert_eq!((inbound.partials(), inbound.expired_total()), (held.len(), 0));
            // Another one: by (epoch, op id) it would be the first host's, moved (R-DEDUP-7).
            let honest = OpId::new(std::num::NonZeroU32::MIN, 5_000 + step, 0).0;
            let text = "y".repeat(20_000);
            let rows = (0..3).map(|index| row(honest, index, 3, &text));
            let last = rows.map(|row| handle_at(&mut inbound, now, other, &row).0).last();
            assert_eq!(last, Some(Ok(Handled::Delivered(60_000))), "step {step}");
            assert_eq!(inbound.partials(), held.len());
            check_accounts(&inbound);
        }
        inbound.handle_timers(now + idle + Duration::from_secs(1));
        assert_eq!((inbound.partials(), inbound.partial_bytes()), (0, 0));
        assert_eq!(inbound.expired_total(), held.len() as u64);
    }

    #[test]
    fn chunks_of_an_expired_message_are_never_confirmed_again() {
        let mut now = Instant::from_ns(1 << 40);
        let mut inbound = inbound(now);
        let id = OpId::new(std::num::NonZeroU32::MIN, 5, 0).0;
        assert_eq!(handle(&mut inbound, now, &row(id, 0, 2, "ab")).0, Ok(Handled::Stored));
        now += Duration::from_secs(11);
        inbound.handle_timers(now);
        assert_eq!((inbound.partials(), inbound.partial_bytes(), inbound.expired_total()), (0, 0, 1));
        for seconds in [0, 9, 18, 27] {
            let later = now + Duration::from_secs(seconds);
            for index in 0..2 {
                let (handled, delivered) = handle(&mut inbound, later, &row(id, index, 2, "ab"));
                assert_eq!((handled, delivered), (Err(DropReason::Stale), None), "{seconds} s");
            }
        }
        // The slot's next operation is none the worse for it.
        let next = OpId::new(std::num::NonZeroU32::MIN.saturating_add(3), 5, 0).0;
        assert_eq!(handle(&mut inbound, now, &row(next, 0, 2, "cd")).0, Ok(Handled::Stored));
        let (handled, delivered) = handle(&mut inbound, now, &row(next, 1, 2, "ef"));
        assert_eq!((handled, delivered), (Ok(Handled::Delivered(4)), Some(b"cdef".to_vec())));
        assert_eq!(handle(&mut inbound, now, &row(next, 0, 2, "cd")).0, Err(DropReason::Duplicate));
    }

    /// The receiver kept chunk 0 and expired it; the sender's other chunks must not be confirmed into a new message.
    #[test]
    fn a_sender_is_known_for_as_long_as_its_expired_messages() {
        let mut now = Instant::from_ns(1 << 40);
        let config = Config { peers_max: 1, ..Config::preset(Preset::Small) };
        let mut inbound = Inbound::new(&config, &Seed::from_number(3), now);
        let id = OpId::new(std::num::NonZeroU32::MIN, 5, 0).0;
        assert_eq!(handle(&mut inbound, now, &row(id, 0, 2, "ab")).0, Ok(Handled::Stored));
        for second in 1..=16 {
            now += Duration::from_secs(1);
            inbound.handle_timers(now);
            // Somebody else would like the only window.
            let stranger = b",0123456789abcdef,,,b25l,1764123456.123456,u+00000001";
            assert_eq!(handle(&mut inbound, now, stranger).0, Err(DropReason::DedupFull), "{second} s");
        }
        // R-PARTIAL-1: rows of an operation arrive at most 16 s apart.
        for index in 0..2 {
            assert_eq!(handle(&mut inbound, now, &row(id, index, 2, "ab")).0, Err(DropReason::Stale));
        }
    }

    #[test]
    fn the_same_32_bit_id_twice_is_two_messages_and_a_repeated_row_is_one() {
        let now = Instant::from_ns(1 << 40);
        let mut inbound = inbound(now);
        let one = b",3f2a9c1e,,,b25l,1764123456.1".as_slice();
        let two = b",3f2a9c1e,,,dHdv,1764123457.1".as_slice();
        assert_eq!(handle(&mut inbound, now, one).1.as_deref(), Some(b"one".as_slice()));
        assert_eq!(handle(&mut inbound, now, one), (Err(DropReason::Duplicate), None));
        assert_eq!(handle(&mut inbound, now, two).1.as_deref(), Some(b"two".as_slice()));
        for second in [6, 7] {
            let chunk = |index: u32, text: &str| {
                format!(",aaaaaaaa,2,{index},{text},176412345{second}.1").into_bytes()
            };
            assert_eq!(handle(&mut inbound, now, &chunk(1, "bGxv")).0, Ok(Handled::Stored));
            assert_eq!(handle(&mut inbound, now, &chunk(0, "aGU=")).1.as_deref(), Some(b"hello".as_slice()));
            assert_eq!(handle(&mut inbound, now, &chunk(1, "bGxv")).0, Err(DropReason::Duplicate));
        }
    }

    #[test]
    fn a_refused_message_keeps_all_but_its_last_chunk() {
        let now = Instant::from_ns(1 << 40);
        let mut inbound = inbound(now);
        let id = OpId::new(std::num::NonZeroU32::MIN, 5, 0).0;
        for order in [[0, 1, 2], [2, 0, 1]] {
            let id = id + (u64::from(order[0]) << 40);
            for &index in &order[..2] {
                let stored = handle(&mut inbound, now, &row(id, index, 3, ["a", "b", "c"][index as usize]));
                assert_eq!(stored.0, Ok(Handled::Stored));
            }
            let last = row(id, order[2], 3, ["a", "b", "c"][order[2] as usize]);
            let mut scratch = Scratch::new();
            let Ok(Row::Data(data)) = decode(&last, &mut scratch) else { panic!("no data row") };
            let from = SocketAddr::from(([127, 0, 0, 1], 1));
            let refused = inbound.handle_data(now, from, &data, &last, |_, payload| {
                assert_eq!(payload.bytes(), b"abc");
                Delivery::NoRoom
            });
            assert_eq!(refused, Err(DropReason::BucketFull));
            assert_eq!(handle(&mut inbound, now, &last).1.as_deref(), Some(b"abc".as_slice()));
        }
    }
}

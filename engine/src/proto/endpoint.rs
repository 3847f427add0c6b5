//! One shard's protocol state: rows in, messages and outcomes out. Sans-I/O; this is the seam a second wire joins at.
//!
//! Calls in one turn, in this order: for each received train [`begin_train`](Endpoint::begin_train), `handle_rows` for
//! its datagrams, `end_train`; then [`handle_timers`](Endpoint::handle_timers); puts, and before these and before what was received
//! [`look_at_keys`](Endpoint::look_at_keys); and at last
//! [`poll_trains`](Endpoint::poll_trains). Acknowledgements are handled before timers.

use super::ack_tracker::OpId;
use super::binary::flows::{Arriving, Flows, datagram_bytes_max};
use super::binary::inflow::Inflows;
use super::inbound::{Delivery, Handled, Inbound, Payload};
use super::outbound::{Outbound, Place};
use super::plugins::Plugins;
use super::sending::Sending;
use super::wires::Wires;
use crate::config::{Config, Wire};
use crate::hash::Seed;
use crate::observe::Counters;
use crate::options::Extras;
use crate::train::TrainBatch;
use crate::units::{Instant, UnixMicros};
use crate::wire::DropReason;
use crate::wire::csv::{self, DataRow, Row, Scratch};
use std::net::{IpAddr, SocketAddr};

/// Who takes the messages. Static dispatch: the receive bucket and users' actors are both behind it.
pub trait Application<C> {
    /// A complete message. It may put messages of its own through `outbound`.
    fn deliver(
        &mut self,
        outbound: &mut Sending<C>,
        counters: &mut Counters,
        sender: SocketAddr,
        sent_at: Option<UnixMicros>,
        payload: Payload<'_>,
        extras: Option<&Extras<'_>>,
    ) -> Delivery;
}

/// What is common to the datagrams of one received train.
#[derive(Clone, Copy, Debug)]
pub struct TrainContext {
    now: Instant,
    from: SocketAddr,
    local: Option<IpAddr>,
    peer: Option<u32>,
    /// Its sender is spoken to in rows alone: nothing of the binary wire counts from there (R-WIRE-2).
    rows_only: bool,
}

/// See the module.
pub struct Endpoint<C> {
    /// Operations of our own.
    pub outbound: Sending<C>,
    /// What comes on the binary wire.
    pub inflows: Inflows,
    /// Operations of others that come as rows.
    pub inbound: Inbound,
    /// What happened so far.
    pub counters: Counters,
    scratch: Scratch,
    /// Only what is sealed counts.
    protected: bool,
    /// The datagram that was opened last.
    opened: Vec<u8>,
}

impl<C> Endpoint<C> {
    /// An endpoint without peers. `buffer_bytes` is the socket's receive buffer, as read back.
    #[must_use]
    pub fn new(
        config: &Config,
        plugins: &Plugins,
        place: Place,
        seed: &Seed,
        now: Instant,
        buffer_bytes: u64,
    ) -> Self {
        let rows = Outbound::new(config, plugins.retries.clone(), place, seed, now);
        let wires = Wires::new(config);
        let flows = Flows::new(config, plugins, wires.clone(), place, seed, now);
        Self {
            outbound: Sending::new(rows, flows, wires),
            inflows: Inflows::new(
                config,
                seed,
                buffer_bytes,
                datagram_bytes_max(config) - plugins.tag_bytes(),
            ),
            inbound: Inbound::new(config, seed, now),
            counters: Counters::default(),
            scratch: Scratch::new(),
            protected: plugins.protection.is_some(),
            opened: Vec::new(),
        }
    }

    /// Confirms of what follows go to `from`, from `local`.
    pub fn begin_train(
        &mut self,
        now: Instant,
        from: SocketAddr,
        local: Option<IpAddr>,
        batch: &mut TrainBatch,
    ) -> TrainContext {
        batch.begin(from, local);
        let rows_only = self.outbound.wire_of(from) == Wire::Csv;
        TrainContext { now, from, local, peer: self.outbound.rows.peer_at(from, local), rows_only }
    }

    /// Handles datagrams of `row_bytes` bytes each, the last of which may be shorter: as
    /// [`handle_datagram`](Self::handle_datagram) for each, but runs of equal rows cost less.
    pub fn handle_rows(
        &mut self,
        train: &TrainContext,
        rows: &[u8],
        row_bytes: usize,
        batch: &mut TrainBatch,
        application: &mut impl Application<C>,
    ) {
        let mut rest = rows;
        while rest.len() >= 2 * row_bytes && !self.protected {
            let handled = match rest[0] {
                b',' => self.handle_data_run(train, rest, row_bytes, batch, application),
                b'1' => self.handle_confirm_run(train, rest, row_bytes),
                _ => Err(1),
            };
            let count = handled.unwrap_or_else(|count| {
                for datagram in rest.chunks(row_bytes).take(count) {
                    self.handle_datagram(train, datagram, batch, application);
                }
                count
            });
            rest = &rest[count * row_bytes..];
        }
        for datagram in rest.chunks(row_bytes) {
            self.handle_datagram(train, datagram, batch, application);
        }
    }

    /// Handles a run of single-chunk rows at the start of `rows`; how many. `Err`: so many are none.
    fn handle_data_run(
        &mut self,
        train: &TrainContext,
        rows: &[u8],
        row_bytes: usize,
        batch: &mut TrainBatch,
        application: &mut impl Application<C>,
    ) -> Result<usize, usize> {
        let Self { outbound, inbound, counters, scratch, .. } = self;
        let run = csv::decode_data_run(rows, row_bytes, scratch)?;
        let Ok(window) = inbound.window(train.now, train.from, run.epoch) else { return Err(run.rows()) };
        let mut confirms = Confirms { ids: [[0; 16]; csv::RUN_ROWS_MAX], count: 0, route: 0 };
        let mut delivered = 0;
        for row in run.iter() {
            let handled = inbound.handle_single(train.now, window, OpId(row.id), row.payload, |payload| {
                application.deliver(outbound, counters, train.from, Some(run.sent_at), payload, None)
            });
            match handled {
                Ok(()) => delivered += 1,
                Err(reason) => {
                    counters.drop_row(reason);
                    if reason != DropReason::Duplicate {
                        continue;
                    }
                }
            }
            if confirms.route != OpId(row.id).route() {
                confirms.write(outbound.rows.epoch(), batch, counters);
                confirms.route = OpId(row.id).route();
            }
            confirms.ids[confirms.count] = *row.id_text;
            confirms.count += 1;
        }
        confirms.write(outbound.rows.epoch(), batch, counters);
        counters.datagrams_received += run.rows() as u64;
        counters.data_rows_handled += delivered;
        counters.messages_received += delivered;
        counters.message_bytes_received += delivered * run.payload_bytes as u64;
        Ok(run.rows())
    }

    /// Handles a run of confirms of single-chunk messages at the start of `rows`; how many. `Err`: so many are none.
    fn handle_confirm_run(
        &mut self,
        train: &TrainContext,
        rows: &[u8],
        row_bytes: usize,
    ) -> Result<usize, usize> {
        let (peer, run) = train.peer.zip(csv::decode_confirm_run(rows, row_bytes)).ok_or(1_usize)?;
        let count = self.outbound.rows.handle_confirm_run(train.now, peer, &run, &mut self.counters);
        self.counters.datagrams_received += count as u64;
        if count == 0 { Err(1) } else { Ok(count) }
    }

    /// Handles one datagram: a data row, whose confirm goes into `batch`, or a confirm.
    pub fn handle_datagram(
        &mut self,
        train: &TrainContext,
        datagram: &[u8],
        batch: &mut TrainBatch,
        application: &mut impl Application<C>,
    ) {
        self.counters.datagrams_received += 1;
        if datagram.first().is_some_and(|&first| first >= 0x80) && !train.rows_only {
            return self.handle_binary(train, datagram, batch, application);
        }
        if self.protected {
            return self.counters.drop_row(DropReason::Unprotected);
        }
        if !train.rows_only
            && let Some(row) = csv::decode_discovery(datagram)
        {
            self.counters.confirms_handled += 1;
            let from = (train.from, train.local);
            return self.outbound.flows.handle_discovery(train.now, from, &row, batch);
        }
        match csv::decode(datagram, &mut self.scratch) {
            Ok(Row::Data(row)) => {
                let (outbound, counters) = (&mut self.outbound, &mut self.counters);
                let handled =
                    self.inbound.handle_data(train.now, train.from, &row, datagram, |sent_at, payload| {
                        application.deliver(outbound, counters, train.from, sent_at, payload, None)
                    });
                match handled {
                    Ok(handled) => {
                        counters.data_rows_handled += 1;
                        if let Handled::Delivered(bytes) = handled {
                            counters.messages_received += 1;
                            counters.message_bytes_received += bytes as u64;
                        }
                        confirm(&row, datagram.len(), outbound.rows.epoch(), batch, counters);
                    }
                    Err(reason) => {
                        counters.drop_row(reason);
                        if reason == DropReason::Duplicate {
                            confirm(&row, datagram.len(), outbound.rows.epoch(), batch, counters);
                        }
                    }
                }
            }
            Ok(Row::Confirm(row)) => {
                let result = match row.id.native {
                    Some(id) => self.outbound.rows.handle_confirm(
                        train.now,
                        train.peer,
                        id,
                        row.chunk_index,
                        row.epoch,
                        &mut self.counters,
                    ),
                    None => Err(DropReason::UnknownConfirm),
                };
                if let Err(reason) = result {
                    self.counters.drop_row(reason);
                }
            }
            Err(reason) => self.counters.drop_row(reason),
        }
    }

    fn handle_binary(
        &mut self,
        train: &TrainContext,
        datagram: &[u8],
        batch: &mut TrainBatch,
        application: &mut impl Application<C>,
    ) {
        let Self { outbound, inflows, counters, opened, .. } = self;
        let &TrainContext { now, from, local, .. } = train;
        let arriving = Arriving { now, from, local, datagram, key_id: 0 };
        let arrived = if self.protected {
            outbound.flows.handle_sealed(&arriving, opened, inflows, batch, counters)
        } else {
            outbound.flows.handle_datagram(&arriving, inflows, batch, counters)
        };
        match arrived {
            Ok(Some(arrived)) => {
                let rest = inflows.take(now, &arrived, counters, |payload, extras, counters| {
                    application.deliver(outbound, counters, arrived.from, None, payload, extras)
                });
                outbound.flows.handle_feedback(now, &arrived, rest, inflows, counters);
                if inflows.lanes_are_due(arrived.index) {
                    inflows.hand_over_due(arrived.index, counters, |payload, extras, counters| {
                        application.deliver(outbound, counters, arrived.from, None, payload, extras)
                    });
                }
            }
            Ok(None) => counters.confirms_handled += 1,
            Err(reason) => counters.drop_row(reason),
        }
    }

    /// Must be called after the datagrams of one train.
    pub fn end_train(&mut self) {
        self.inbound.end_train();
    }

    /// Retries and expiries.
    pub fn handle_timers(&mut self, now: Instant) {
        self.outbound.handle_timers(now, &mut self.inflows, &mut self.counters);
        self.counters.partials_expired -= self.inbound.expired_total();
        self.inbound.handle_timers(now);
        self.counters.partials_expired += self.inbound.expired_total();
    }

    /// Whether the keys of the protection have changed, before anything is put.
    #[inline]
    pub fn look_at_keys(&mut self, now: Instant) {
        self.outbound.flows.look_at_keys(now, &mut self.inflows, &mut self.counters);
    }

    /// Encodes what may be sent now.
    pub fn poll_trains(&mut self, now: Instant, wall: UnixMicros, batch: &mut TrainBatch) {
        self.outbound.rows.poll_trains(now, wall, batch, &mut self.counters);
        self.outbound.flows.poll(now, &mut self.inflows, batch, &mut self.counters);
    }

    /// When the next turn is due without input.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let credit = self.inflows.next_deadline();
        self.outbound.next_deadline().into_iter().chain(self.inbound.next_deadline()).chain(credit).min()
    }
}

/// Confirms of a run of single-chunk rows, of one route: they may share a train.
struct Confirms {
    ids: [[u8; 16]; csv::RUN_ROWS_MAX],
    count: usize,
    route: u8,
}

impl Confirms {
    /// Writes them into the batch as far as there is room, and forgets them (R-CONFIRM-5: the rows have our mark).
    fn write(&mut self, epoch: csv::Epoch, batch: &mut TrainBatch, counters: &mut Counters) {
        let mut ids = &self.ids[..self.count];
        while !ids.is_empty() {
            let Some(space) = batch.push_run(self.route, csv::CONFIRM_RUN_ROW_BYTES, ids.len()) else {
                break;
            };
            let (placed, left) = ids.split_at(space.len() / csv::CONFIRM_RUN_ROW_BYTES);
            csv::encode_confirm_run(space, placed, epoch);
            counters.confirms_sent += placed.len() as u64;
            ids = left;
        }
        counters.confirms_withheld += ids.len() as u64;
        self.count = 0;
    }
}

/// Writes the confirm of a data row into the batch (R-CONFIRM-5): to engines with our mark, to others as the original
/// does it.
fn confirm(
    row: &DataRow<'_>,
    row_bytes: usize,
    epoch: csv::Epoch,
    batch: &mut TrainBatch,
    counters: &mut Counters,
) {
    let form = row.confirm(epoch);
    let bytes = csv::confirm_row_bytes(&form);
    if bytes > row_bytes + 2 && row.id.native.is_none() {
        // Quoting made it longer than the row that asked for it: nobody unproven gets more than he sent (R-CONFIRM-6).
        counters.confirms_withheld += 1;
        return;
    }
    // Confirms of one route may share a train: the kernel steers it by its first segment. Foreign ids have no route.
    let route = row.id.native.map_or(0, |id| id as u8);
    match batch.push(route, bytes) {
        Some(space) => {
            csv::encode_confirm(space, &form);
            counters.confirms_sent += 1;
        }
        None => counters.confirms_withheld += 1,
    }
}

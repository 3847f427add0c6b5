//! HELLO, cookies, and who gives way where two flows were opened at once (`PROTOCOL.md`, R-FLOW, R-DISC-2).

use super::{
    Arriving, COOKIE_BUCKET_SHIFT, FIRST_FLIGHT_BYTES, FLOWS_OF_ADDRESS_MAX, Flows, INDEX_BITS, KEPT_FOR_MIN,
    Pair, UNPROVEN_FOR, UNPROVEN_MAX, UNSHOWN_MAX, UNSHOWN_OF_ADDRESS_MAX, VERSION, is_other_start,
    random_bytes,
};
use crate::config::Wire;
use crate::error::FailureCause;
use crate::observe::Counters;
use crate::proto::binary::flow::{Flow, Identity, Phase};
use crate::proto::binary::guard;
use crate::proto::binary::inflow::Inflows;
use crate::proto::binary::recovery::Fate;
use crate::proto::protection::SALT_BYTES;
use crate::proto::shares::Host;
use crate::train::TrainBatch;
use crate::units::Instant;
use crate::wire::binary::{Bases, Frame, HEADER_BYTES, Header, Hello, Limits, Writer};
use crate::wire::{DropReason, binary};
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;

impl<C> Flows<C> {
    /// The peer proved its address (R-FLOW-5): answers to it use this flow (R-FLOW-6). If it is another incarnation than the
    /// one we talk to, that one is gone (R-RESTART-1).
    pub(super) fn prove(&mut self, now: Instant, index: u32, inflows: &mut Inflows, counters: &mut Counters) {
        let Some(pair) = self.pair(index) else { return };
        pair.out.proven = true;
        inflows.come(now, true);
        let to = pair.out.identity.to;
        let peer_nonce = pair.out.peer_nonce;
        self.unproven.retain(|&other| other != index);
        let used = self.addresses.used(to);
        if let Some(old) = used {
            self.awake(now, old);
        }
        self.closing.remove(&to);
        // With a key that is about to go it is the peer's flow alone (R-PROT-14).
        let ours = self.takes_messages(index);
        match used {
            // Both opened at once: of two HELLOs, the one with the larger nonce is kept by both sides (R-FLOW-4). Where keys
            // differ, nobody knows whether ours can be answered: the peer's is there.
            Some(old) if old != index && ours && self.gives_way(index, old, peer_nonce) => {
                self.merge(old, index, inflows);
            }
            Some(old)
                if old != index
                    && (self.has_newer_key(index, old)
                        || (ours && self.may_be_forgotten(now, old, index))) =>
            {
                self.put_aside(to, old);
                self.addresses.set_used(to, index);
            }
            Some(old) if old != index => self.end_if_restarted(now, old, index, inflows, counters),
            None if ours => self.addresses.set_used(to, index),
            _ => {}
        }
        self.end_restarted_beside(now, index, Instant::FAR_FUTURE, inflows, counters);
    }

    /// Whether a peer that opens another flow may have given this one up: it was silent, and nothing is under way. Where everything is
    /// sealed no RESET would say so (R-PROT-6), and what takes this flow would be lost.
    fn may_be_forgotten(&self, now: Instant, index: u32, other: u32) -> bool {
        let pair = |index: u32| self.slots[index as usize].as_deref();
        let rests = |Pair { out, .. }: &Pair<C>| {
            out.phase == Phase::Open && out.has_no_operations() && now.since(out.heard_at) >= KEPT_FOR_MIN
        };
        let (Some(one), Some(other)) = (pair(index), pair(other)) else { return false };
        self.is_protected()
            && rests(one)
            && !is_other_start(one.out.identity.peer_epoch, other.out.identity.peer_epoch)
    }

    /// Whether a flow of ours that is not open yet makes way for `index`, which the peer opened with `peer_nonce`.
    fn gives_way(&mut self, index: u32, ours: u32, peer_nonce: u64) -> bool {
        let other_keys = self.have_other_keys(index, ours);
        self.pair(ours).is_some_and(|pair| match pair.out.phase {
            Phase::Probing => true,
            Phase::Opening => other_keys || pair.out.nonce < peer_nonce,
            Phase::Open => false,
        })
    }

    /// What waits for a flow goes over to another one of the same peer, and messages if they took it.
    pub(super) fn merge(&mut self, from: u32, to: u32, inflows: &mut Inflows) {
        let Some(mut old) = self.slots[from as usize].take() else { return };
        if let Some(pair) = self.pair(to) {
            old.out.hand_over(&mut pair.out);
        }
        let addr = old.out.identity.to;
        let was_used = self.addresses.is_used(addr, from);
        self.slots[from as usize] = Some(old);
        self.remove(from, inflows);
        if was_used {
            self.addresses.set_used(addr, to);
        }
        self.make_ready(to);
    }

    /// A HELLO of somebody new. Whatever he says, he gets back no more than he sent, and nothing of ours changes
    /// (R-FLOW-3).
    pub(super) fn handle_first_flight(
        &mut self,
        arriving: &Arriving<'_>,
        header: &Header,
        frames: &[u8],
        inflows: &mut Inflows,
        batch: &mut TrainBatch,
        counters: &mut Counters,
    ) -> Result<(), DropReason> {
        let Arriving { now, from, local, datagram, key_id } = *arriving;
        let hello = match binary::frames(frames).next() {
            Some(Ok(Frame::Hello(hello))) => hello,
            // Whoever has the key can be made to send one that fits (R-PROT-6).
            Some(Ok(Frame::Reset { tag })) if !self.is_protected() => {
                return self.handle_reset(now, from, (tag, header.epoch), inflows, counters);
            }
            _ => return Err(DropReason::BinaryUnproven),
        };
        if !hello.versions.is_empty() && !hello.versions.contains(&VERSION) {
            return Err(DropReason::BinaryVersion);
        }
        let known = self.addresses.beside(from).find(|&index| {
            self.slots[index as usize]
                .as_deref()
                .is_some_and(|pair| !pair.out.proven && pair.out.identity.peer_tag == hello.tag)
                && self.has_key_id(index, key_id)
        });
        // A cookie proves the address once: whoever heard a HELLO can say it again (R-DISC-2).
        let said = self.keyed(2, from, hello.nonce ^ hello.tag.rotate_left(32));
        let step = now.as_ns() >> COOKIE_BUCKET_SHIFT;
        let has_cookie = hello.cookie.is_some_and(|cookie| self.is_cookie(now, from, cookie))
            && (known.is_some() || !self.spent.has(step, said));
        // A stranger may be an original v1 peer whose address somebody forged: one byte of ours would be its end
        // (R-DISC-3). A cookie is no proof while the address does not answer: it can be repeated.
        let stranger = self.is_stranger(now, from);
        if stranger && (!has_cookie || self.is_suspended(from)) {
            self.probe_stranger(now, from, local, datagram.len(), batch);
            return Err(DropReason::BinaryUnproven);
        }
        if self.is_protected() && self.is_own_hello(&hello) {
            return Err(DropReason::BinaryUnproven);
        }
        let index = match known {
            Some(index) => index,
            None => {
                // With `auto` who is no stranger has answered a probe. Who is sealed has the key, and a row would be plain.
                let shown = has_cookie || self.wires.of(from) == Wire::Auto || self.is_protected();
                // Where another flow has to make way, too.
                let has_room = !self.is_full() && self.addresses.has_room(Host::from(from.ip()));
                if !(shown || has_room && self.takes_unshown(from)) {
                    // No state, and less than came: the shortest HELLO has 77 bytes. He says it again, with the cookie
                    // (R-FLOW-12).
                    self.answer_discovery(now, (from, local), (header.route, hello.nonce), batch);
                    return Err(DropReason::BinaryUnproven);
                }
                if self.is_protected() && hello.random.is_none() {
                    return Err(DropReason::BinaryUnproven);
                }
                if self.is_full() && self.makes_room_at.is_none_or(|at| at <= now) {
                    self.make_room(now, inflows, counters); // Nothing else may have woken the shard since it was due.
                }
                self.make_way(now, from, inflows, counters)?;
                let index =
                    self.open(now, from, local, hello.tag, header.route).ok_or(DropReason::BinaryUnproven)?;
                self.unproven.push(index);
                self.addresses.add_beside(from, index);
                if has_cookie {
                    self.spent.insert(said);
                }
                if let Some(pair) = self.pair(index) {
                    pair.out.phase = Phase::Open;
                    pair.out.identity.peer_epoch = header.epoch;
                    pair.out.peer_nonce = hello.nonce;
                    pair.out.set_peer_limits(hello.limits);
                    pair.out.guard.iter_mut().for_each(|guard| guard.set_key_id(key_id));
                }
                self.establish(index, &hello, false);
                inflows.open(index, now, from, &hello.bases);
                inflows.come(now, false);
                self.timers.arm(index, now + UNPROVEN_FOR);
                // Nothing of ours changes, nor is this flow used, until a datagram brings its tag back: a HELLO
                // can be an old one, and whoever sent it may have given it up.
                index
            }
        };
        let before = self.pair(index).map(|pair| (pair.out.hellos, pair.out.recovery.next_number()));
        self.send_hello(now, index, Some(header.packet_number), batch, datagram.len());
        if let Some(pair) = self.pair(index)
            && let Some((hellos, number)) = before.filter(|before| before.0 != pair.out.hellos)
        {
            // Said again, it measures nothing: which of the two was answered nobody knows.
            let proof = header.packet_number.wrapping_add(1);
            pair.out.proof = if hellos == 0 { (proof, number) } else { (u64::MAX, 0) };
        }
        Ok(())
    }

    /// Whether the HELLOs of a flow have this key. With another one a HELLO is of another flow: who says an old one again changes
    /// no key (R-PROT-10).
    fn has_key_id(&self, index: u32, key_id: u32) -> bool {
        let pair = self.slots.get(index as usize).and_then(Option::as_deref);
        pair.and_then(|pair| pair.out.guard.as_ref()).is_none_or(|guard| guard.key_id() == Some(key_id))
    }

    /// Both HELLOs of a flow are known, `hello` is the peer's: its keys begin, if datagrams are sealed (R-PROT-3).
    pub(super) fn establish(&mut self, index: u32, hello: &Hello<'_>, opener: bool) {
        let Self { slots, protection, shop, .. } = self;
        if let (Some(protection), Some(random)) = (protection, hello.random)
            && let Some(pair) = slots[index as usize].as_deref_mut()
            && let Flow { identity, nonce, guard: Some(guard), .. } = &mut pair.out
        {
            let (own, peer) = ((*nonce, shop.epoch), (hello.nonce, random));
            guard.establish(&**protection, identity, own, peer, opener);
        }
    }

    /// A HELLO of our own that somebody sent back to us: who answered it would talk to himself, and take his own messages
    /// for the peer's.
    pub(super) fn is_own_hello(&self, hello: &Hello<'_>) -> bool {
        let index = (hello.tag & ((1 << INDEX_BITS) - 1)) as usize;
        let pair = self.slots.get(index).and_then(Option::as_deref);
        let awake = pair.map(|pair| (pair.out.identity.own_tag, pair.out.nonce));
        let asleep = self.sleeper(index as u32).map(|asleep| (asleep.identity.own_tag, asleep.nonce));
        awake.or(asleep) == Some((hello.tag, hello.nonce))
    }

    /// Whether a HELLO that shows no cookie is taken up all the same: while they are few, a handshake costs one round trip.
    pub(super) fn takes_unshown(&self, from: SocketAddr) -> bool {
        let of_address = self.addresses.beside(from);
        let is_unproven =
            |index: &u32| self.slots[*index as usize].as_deref().is_some_and(|pair| !pair.out.proven);
        self.unproven.len() < UNSHOWN_MAX && of_address.filter(is_unproven).count() < UNSHOWN_OF_ADDRESS_MAX
    }

    /// Room for another flow that `from` opens (R-FLOW-5, R-FLOW-13): the oldest unproven one goes, or of the address the
    /// one that has rested longest, or of those that count for the host one that sleeps or is unproven.
    pub(super) fn make_way(
        &mut self,
        now: Instant,
        from: SocketAddr,
        inflows: &mut Inflows,
        counters: &mut Counters,
    ) -> Result<(), DropReason> {
        let crowded = self.addresses.beside(from).count() >= FLOWS_OF_ADDRESS_MAX;
        let mut gives_way = None;
        let host = Host::from(from.ip());
        if crowded || self.is_full() || !self.addresses.has_room(host) {
            // Where nobody else finds a place, not even that one is kept.
            let used = self.addresses.used(from).filter(|_| crowded || !self.is_full());
            let rested = |&index: &u32| match self.slots[index as usize].as_deref() {
                // Not proven: one that the peer opened; ours waits for an answer, and messages for it.
                Some(Pair { out, .. }) => {
                    let rests = out.is_idle() || (!out.proven && out.phase == Phase::Open);
                    (out.proven, rests, out.heard_at.max(inflows.heard_at(index)))
                }
                None => (true, true, self.sleeper(index).map_or(now, |asleep| asleep.heard_at)),
            };
            let rests = |index: &u32| {
                let (proven, idle, heard_at) = rested(index);
                used != Some(*index) && idle && (!proven || now.since(heard_at) >= KEPT_FOR_MIN)
            };
            gives_way = self.flows_to(from).filter(rests).min_by_key(rested);
            if crowded && gives_way.is_none() {
                return Err(DropReason::BinaryUnproven);
            }
        }
        // A sealed HELLO can be a recorded one, said again in the name of any address.
        let many = self.unproven.len() >= self.unproven_part();
        let counts = |index: u32| self.addresses.is_beside(from, index);
        if !self.addresses.has_room(host) && !gives_way.is_some_and(counts) {
            let is_its = |&&index: &&u32| {
                let pair = self.slots[index as usize].as_deref();
                pair.is_some_and(|pair| Host::from(pair.out.identity.to.ip()) == host)
            };
            let oldest = self.unproven.iter().find(is_its).copied();
            let spares = self.is_protected() && (many || self.unproven.len() >= UNPROVEN_MAX);
            gives_way = if spares { None } else { self.draw_sleeper(now, Some(host)) }.or(oldest);
            if gives_way.is_none() {
                return Err(DropReason::BinaryUnproven);
            }
        }
        if let Some(&oldest) = self.unproven.first() {
            let is_proven =
                |index: u32| self.slots[index as usize].as_deref().is_none_or(|pair| pair.out.proven);
            let is_full = !crowded && self.is_full() && self.addresses.has_room(host);
            let goes = match gives_way {
                None => is_full || self.unproven.len() >= UNPROVEN_MAX,
                Some(index) => is_full && many && is_proven(index),
            };
            if goes {
                gives_way = Some(oldest);
            }
        }
        if let Some(index) = gives_way {
            counters.flows_evicted += 1;
            if let Some(pair) = self.slots[index as usize].as_deref_mut() {
                pair.out.end(&mut self.shop, FailureCause::TimedOut, FailureCause::TimedOut, counters);
            }
            self.remove(index, inflows);
        }
        Ok(())
    }

    /// Says HELLO, and twice what was not answered: the next wait is twice as long (RFC 9002 section 6.2.4). False if the batch
    /// is full.
    pub(super) fn send_first_hello(&mut self, now: Instant, index: u32, batch: &mut TrainBatch) -> bool {
        let again = self.pair(index).is_some_and(|pair| pair.out.hellos > 0);
        if !self.send_hello(now, index, None, batch, usize::MAX) {
            return false;
        }
        if again && let Some(pair) = self.pair(index) {
            pair.out.hellos -= 1; // The second one is no more than the first: it counts once.
            if !self.send_hello(now, index, None, batch, usize::MAX)
                && let Some(pair) = self.pair(index)
            {
                pair.out.hellos += 1;
            }
        }
        true
    }

    /// Writes our HELLO into the batch: at most `bytes_max` bytes; one that answers acknowledges what it answers. False if the
    /// batch is full.
    pub(super) fn send_hello(
        &mut self,
        now: Instant,
        index: u32,
        answers: Option<u64>,
        batch: &mut TrainBatch,
        bytes_max: usize,
    ) -> bool {
        let (epoch, shards) = (self.shop.epoch, self.place.shards as u8);
        let limits = self.limits;
        let Some(pair) = self.slots[index as usize].as_deref_mut() else { return true };
        let out = &mut pair.out;
        if let (Some(protection), Some(guard), None) = (&self.protection, &mut out.guard, answers) {
            guard.choose_key(&**protection, out.identity.to);
        }
        let [packet_number, messages, chunked] = out.next_numbers();
        let number = out.recovery.take_number(now, Fate::Done);
        let hello = Hello {
            // An answer is of the version it has in its header: what it acknowledges takes this place, too.
            versions: if answers.is_some() { &[] } else { &[VERSION] },
            tag: out.identity.own_tag,
            nonce: out.nonce,
            echo: answers.map(|_| out.peer_nonce),
            bases: Bases { packet_number, messages, chunked },
            limits: Some(Limits {
                message_bytes_max: limits.message_bytes_max,
                datagram_bytes_max: (limits.datagram_bytes_max - limits.tag_bytes) as u16,
            }),
            dedup_ms: None,
            shards: Some(shards),
            cookie: Some(out.cookie),
            random: out.guard.as_ref().map(|guard| guard.random()),
        };
        // A first HELLO is as long as its answer: nobody is made to send more than he got (R-FLOW-3).
        let bytes = HEADER_BYTES + FIRST_FLIGHT_BYTES + guard::hello_bytes(self.protection.as_deref());
        if bytes > bytes_max {
            return true;
        }
        let Identity { to, local, route, peer_tag, .. } = out.identity;
        let write = |area: &mut [u8]| {
            let mut writer = Writer::new(area);
            let written =
                writer.hello(&hello) && answers.is_none_or(|number| writer.ack(0, [(number, number)], None));
            debug_assert!(written);
            writer.pad();
        };
        let key_id = out.guard.as_ref().map(|guard| guard.key_id());
        // Without a key for its address nothing is said, and what waits ends as if nobody answered.
        if key_id != Some(None) {
            batch.begin(to, local);
            let Some(space) = batch.push(route, bytes) else { return false };
            binary::write(
                space,
                &Header { route, epoch, packet_number: number, tag: peer_tag, sent_at: None },
            );
            match &self.protection {
                None => {
                    write(&mut space[HEADER_BYTES..]);
                    binary::seal(space);
                }
                Some(protection) => {
                    let key_id = key_id.flatten().unwrap_or_default();
                    let salt = random_bytes::<SALT_BYTES>(&mut self.rng);
                    guard::seal_hello(&**protection, to, (key_id, &salt), space, write);
                }
            }
        }
        out.hellos += 1;
        let wait = self.shop.retries.hello_wait(out.identity.to, out.hellos, self.rng.next_u32());
        out.hello_at = now + wait;
        self.timers.arm_earlier(index, now + wait);
        true
    }

    /// The answer to our HELLO (R-FLOW-3).
    pub(super) fn handle_answer(
        &mut self,
        index: u32,
        arriving: &Arriving<'_>,
        header: &Header,
        frames: &[u8],
        inflows: &mut Inflows,
    ) -> Result<(), DropReason> {
        let now = arriving.now;
        let Some(pair) = self.pair(index) else { return Err(DropReason::BinaryUnknownTag) };
        let mut frames = binary::frames(frames);
        let Some(Ok(Frame::Hello(hello))) = frames.next() else {
            return Err(DropReason::BinaryUnproven);
        };
        if pair.out.phase != Phase::Opening
            || hello.echo != Some(pair.out.nonce)
            || arriving.from != pair.out.identity.to
            || pair.out.guard.is_some() != hello.random.is_some()
        {
            return Err(DropReason::BinaryUnproven);
        }
        pair.out.identity.peer_tag = hello.tag;
        pair.out.identity.peer_epoch = header.epoch;
        pair.out.identity.local = arriving.local;
        pair.out.set_peer_limits(hello.limits);
        pair.out.phase = Phase::Open;
        pair.out.proven = true;
        pair.out.heard_at = now;
        // Which of our HELLOs was answered: without that, one that was said again measures nothing (RFC 6298 section 3).
        if let Some(Ok(Frame::Ack(ack))) = frames.next() {
            pair.out.recovery.answered(now, ack.largest());
        }
        // The first datagram under the new tag proves us, and brings the first grant.
        pair.out.want_ping();
        self.datagram_bytes = pair.out.datagram_bytes();
        self.establish(index, &hello, true);
        inflows.open(index, now, arriving.from, &hello.bases);
        if let Some((inflow, in_shop)) = inflows.get(index) {
            // Its number counts as received; it asks for nothing.
            let nothing = binary::Summary::default();
            let _ = inflow.arrive(now, header.packet_number, &nothing, false, in_shop);
        }
        self.make_ready(index);
        Ok(())
    }

    /// A keyed number that nobody else can make: 64 bits of `purpose`, address and time.
    pub(super) fn keyed(&self, purpose: u8, addr: SocketAddr, bucket: u64) -> u64 {
        let mut hasher = self.secret;
        (purpose, addr, bucket).hash(&mut hasher);
        hasher.finish()
    }

    /// What an address has to show in a first datagram, to prove that it receives there.
    pub(super) fn cookie(&self, now: Instant, addr: SocketAddr) -> u64 {
        self.keyed(0, addr, now.as_ns() >> COOKIE_BUCKET_SHIFT)
    }

    pub(super) fn is_cookie(&self, now: Instant, addr: SocketAddr, cookie: u64) -> bool {
        let bucket = now.as_ns() >> COOKIE_BUCKET_SHIFT;
        [bucket, bucket.wrapping_sub(1)].iter().any(|&bucket| cookie == self.keyed(0, addr, bucket))
    }
}

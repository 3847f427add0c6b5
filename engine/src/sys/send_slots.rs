//! The table of outgoing messages both drivers hand to the kernel: header, address, control data and payload
//! reference of each train, at addresses that never change.
//!
//! A slot keeps what it last encoded: a train to the same address with the same segment size costs one
//! comparison and two stores. Nothing is allocated after construction. The payload is referenced, never
//! copied; whoever submits a slot makes sure that the kernel is done with it before the batch it came from
//! can change.

use super::msg::{Control, Name};
use crate::train::{TRAIN_PARTS_MAX, Train, TrainBatch};
use std::net::{IpAddr, SocketAddr};

/// What the encoded parts of a slot were made from.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Key {
    to: SocketAddr,
    local: Option<IpAddr>,
    /// 0: a single datagram, no control message.
    segment_bytes: u16,
}

/// One message beside its header. The header points into it.
struct Slot {
    name: Name,
    control: Control,
    /// As many as the train has pieces are valid.
    payload: Box<[libc::iovec]>,
    key: Option<Key>,
}

/// See the module documentation. Not `Send`: the headers hold raw pointers, into `slots` and into the last
/// batch.
pub(crate) struct SendSlots {
    /// In one array, because that is what sendmmsg takes.
    headers: Box<[libc::mmsghdr]>,
    slots: Box<[Slot]>,
    v6_socket: bool,
}

impl SendSlots {
    pub(super) fn new(count: usize, v6_socket: bool) -> Self {
        let nothing = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        let payload = || vec![nothing; TRAIN_PARTS_MAX].into_boxed_slice();
        let slot = || Slot { name: Name::EMPTY, control: Control::EMPTY, payload: payload(), key: None };
        let mut slots: Box<[Slot]> = (0..count).map(|_| slot()).collect();
        // The slots are boxed and never move again, so the headers can point to them for good. Only the
        // kernel follows these pointers.
        let headers = slots.iter_mut().map(|slot| {
            let mut header = empty_header();
            header.msg_hdr.msg_name = slot.name.bytes.as_mut_ptr().cast();
            header.msg_hdr.msg_control = slot.control.bytes.as_mut_ptr().cast();
            header.msg_hdr.msg_iov = slot.payload.as_mut_ptr();
            header.msg_hdr.msg_iovlen = 1;
            header
        });
        Self { headers: headers.collect(), slots, v6_socket }
    }

    /// Number of slots.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Puts `train` of `batch` into a slot.
    pub(super) fn fill(&mut self, index: usize, train: &Train, batch: &TrainBatch) {
        let slot = &mut self.slots[index];
        let header = &mut self.headers[index].msg_hdr;
        header.msg_iovlen = 0;
        for (piece, place) in batch.pieces(train).zip(&mut slot.payload) {
            place.iov_base = piece.as_ptr().cast_mut().cast(); // Sending never writes there.
            place.iov_len = piece.len();
            header.msg_iovlen += 1;
        }
        // A single datagram needs no segment size. One that does not fit 16 bits cannot be a segment: the
        // kernel shall refuse the train rather than cut it elsewhere.
        let segment =
            if train.segments > 1 { u16::try_from(train.segment_bytes).unwrap_or(u16::MAX) } else { 0 };
        let key = Key { to: train.to, local: train.local, segment_bytes: segment };
        if slot.key == Some(key) {
            return;
        }
        slot.name = Name::encode(train.to, self.v6_socket);
        slot.control = Control::encode((segment > 0).then_some(segment), train.local);
        slot.key = Some(key);
        header.msg_namelen = slot.name.len;
        header.msg_controllen = slot.control.len;
    }

    /// The header of one slot, valid as long as `self`.
    pub(super) fn header(&self, index: usize) -> *const libc::msghdr {
        &raw const self.headers[index].msg_hdr
    }

    /// What a slot holds: address, control data, and the pieces of its train.
    ///
    /// # Safety
    /// The train it was filled with is still there.
    #[cfg(any(test, feature = "sim"))]
    pub(super) unsafe fn message(&self, index: usize) -> (&[u8], &[u8], impl Iterator<Item = &[u8]>) {
        let (slot, header) = (&self.slots[index], &self.headers[index].msg_hdr);
        let pieces = slot.payload[..header.msg_iovlen].iter().map(|piece| {
            // SAFETY: `fill` made it of a piece of the train, which is still there: the caller's word.
            unsafe { std::slice::from_raw_parts(piece.iov_base.cast::<u8>(), piece.iov_len) }
        });
        (&slot.name.bytes[..slot.name.len as usize], &slot.control.bytes[..slot.control.len], pieces)
    }

    /// The headers from `index` on, for sendmmsg.
    pub(super) fn headers_mut(&mut self, index: usize, end: usize) -> &mut [libc::mmsghdr] {
        &mut self.headers[index..end]
    }
}

/// A header with nothing in it.
pub(super) fn empty_header() -> libc::mmsghdr {
    libc::mmsghdr {
        msg_hdr: libc::msghdr {
            msg_name: std::ptr::null_mut(),
            msg_namelen: 0,
            msg_iov: std::ptr::null_mut(),
            msg_iovlen: 0,
            msg_control: std::ptr::null_mut(),
            msg_controllen: 0,
            msg_flags: 0,
        },
        msg_len: 0,
    }
}

//! Datagrams of the binary wire, from anybody.

use super::repair;
use crate::wire::DropReason;
use crate::wire::binary::model::{Owned, agree, rewrite};
use crate::wire::binary::{
    FLAG_KEY_PHASE, FLAG_PROTECTED, Frame, HEADER_BYTES, check, decode, decode_sealed, frames, mark_sealed,
    raw_frames, seal,
};

/// The first byte says what is repaired: 1 header, 2 lengths of frames, 4 the checksum.
pub(super) fn run(input: &[u8]) {
    let Some((repairs, datagram)) = input.split_first() else { return };
    let mut datagram = datagram.to_vec();
    if repairs & 1 != 0 {
        repair::header(&mut datagram);
    }
    if repairs & 2 != 0 && datagram.len() >= HEADER_BYTES {
        let at = repair::frames_at(&datagram);
        repair::lengths(&mut datagram, at);
    }
    if repairs & 4 != 0 && datagram.len() >= HEADER_BYTES {
        seal(&mut datagram);
    }
    sealed(&datagram);
    let Ok((header, bytes)) = decode(&datagram) else { return };
    if !agree(bytes) {
        assert_eq!(check(bytes), Err(DropReason::BinaryMalformed));
        return;
    }
    let raw: usize = raw_frames(bytes).map(|(_, raw)| raw.len()).sum();
    assert_eq!(raw, bytes.len(), "every byte belongs to a frame");
    let read: Vec<Frame<'_>> = frames(bytes).flatten().collect();
    for frame in &read {
        look_at(frame);
    }
    // What was read is written again, and means the same; all but what only later versions know.
    let again = rewrite(&datagram);
    let (header_again, bytes_again) = decode(&again).expect("a datagram of ours");
    let written: Vec<Owned> = frames(bytes_again).flatten().filter_map(|frame| Owned::of(&frame)).collect();
    assert_eq!((header_again, written), (header, read.iter().filter_map(Owned::of).collect()));
}

/// Everything the accessors of a frame say; none may fail after `check`.
fn look_at(frame: &Frame<'_>) {
    let extensions = match frame {
        Frame::Message(message) => message.extensions,
        Frame::Chunk(chunk) => chunk.extensions,
        Frame::Ack(ack) => {
            let mut above = None;
            for (smallest, largest) in ack.ranges() {
                assert!(smallest <= largest && above.is_none_or(|above| largest + 1 < above));
                above = Some(smallest);
            }
            assert_eq!(ack.ranges().next().map(|range| range.1), Some(ack.largest()));
            return;
        }
        _ => return,
    };
    let meta = extensions.meta;
    let parts = [meta.trace(), meta.user()].into_iter().flatten().map(<[u8]>::len).sum::<usize>();
    assert!(parts <= meta.as_bytes().len());
    assert!(meta.tag().is_none() || meta.as_bytes().len() >= 6);
    assert!(meta.correlation().is_none() || meta.as_bytes().len() >= 10);
}

/// The same header, if it were one of a sealed datagram.
fn sealed(datagram: &[u8]) {
    let plain = decode_sealed(datagram);
    let is_marked = datagram.get(1).is_some_and(|flags| flags & FLAG_PROTECTED != 0);
    assert!(plain.is_err() || is_marked);
    if datagram.len() < HEADER_BYTES {
        return;
    }
    let mut marked = datagram.to_vec();
    let key_phase = datagram[1] & FLAG_KEY_PHASE != 0;
    let key_id = datagram.len() as u32;
    mark_sealed(&mut marked, key_phase, key_id);
    let (Ok(head), Ok((header, bytes))) = (decode_sealed(&marked), decode(datagram)) else { return };
    assert_eq!((head.key_phase, head.key_id), (key_phase, key_id));
    assert_eq!(head.opened(&marked[HEADER_BYTES..]), Ok((header, bytes)));
}

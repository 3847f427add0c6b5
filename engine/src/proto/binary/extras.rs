//! Options of a message as extensions of its frames, and back.

use crate::error::{Refusal, SubmitReason};
use crate::message::Level;
use crate::options::{Extras, Lane, Options};
use crate::wire::binary::{Extensions, META_BYTES_MAX, Meta, MetaBuffer};

/// Type and length before the value of a TLV.
const TLV_BYTES: usize = 2;
/// What a frame of a message in a lane is longer for that.
const LANE_BYTES: usize = Extensions { lane: Some((0, 0)), ..Extensions::NONE }.bytes();

/// Whether a message with these options could be sent at all: on the binary wire, or only there.
///
/// # Errors
/// Why not.
pub fn check_options(options: &Options, payload: &[u8], binary: bool) -> Result<(), SubmitReason> {
    if meta_bytes(options) > META_BYTES_MAX {
        return Err(SubmitReason::Refused(Refusal::MetadataTooLong));
    }
    if wants_commit(Some(options)) && payload.is_empty() {
        return Err(SubmitReason::Refused(Refusal::EmptyCommitted));
    }
    if options.lane.is_some() && payload.is_empty() {
        return Err(SubmitReason::Refused(Refusal::EmptyInLane));
    }
    match needs_binary(options).filter(|_| !binary) {
        Some(refusal) => Err(SubmitReason::Refused(refusal)),
        None => Ok(()),
    }
}

/// What a peer that speaks the CSV wire alone makes of it: `None` if nothing is lost.
#[must_use]
pub fn needs_binary(options: &Options) -> Option<Refusal> {
    if wants_commit(Some(options)) {
        return Some(Refusal::CommitNeedsBinary);
    }
    if options.lane.is_some() {
        return Some(Refusal::LaneNeedsBinary);
    }
    if options.metadata.is_empty() { None } else { Some(Refusal::MetadataNeedsBinary) }
}

/// Whether the sender waits for the application's commit.
#[must_use]
pub fn wants_commit(options: Option<&Options>) -> bool {
    options.is_some_and(|options| options.level == Level::Committed)
}

/// The lane it is in.
#[must_use]
pub fn lane(options: Option<&Options>) -> Option<Lane> {
    options.and_then(|options| options.lane)
}

/// Whether it leaves in chunks, however small: it may end long after it arrived, and holds back no small message (R-ONCE-1).
#[must_use]
pub fn leaves_in_chunks(options: Option<&Options>) -> bool {
    options.is_some_and(|options| options.level == Level::Committed || options.lane.is_some())
}

/// Bytes of the metadata on the wire.
fn meta_bytes(options: &Options) -> usize {
    let Extras { tag, correlation, trace, user, .. } = options.metadata.as_extras();
    let fixed = tag.map_or(0, |_| TLV_BYTES + 4) + correlation.map_or(0, |_| TLV_BYTES + 8);
    let tlv = |bytes: Option<&[u8]>| bytes.map_or(0, |bytes| TLV_BYTES + bytes.len());
    fixed + tlv(trace) + tlv(user)
}

/// Bytes the options add to each frame of the message.
#[must_use]
pub fn extension_bytes(options: Option<&Options>) -> usize {
    let lane = lane(options).map_or(0, |_| LANE_BYTES);
    match options.map_or(0, meta_bytes) {
        0 => lane,
        bytes => lane + 1 + bytes,
    }
}

/// Calls `write` with the extensions of a frame; they are as long as [`extension_bytes`] says.
pub fn with_extensions<R>(options: Option<&Options>, write: impl FnOnce(&Extensions<'_>) -> R) -> R {
    let Some(options) = options else { return write(&Extensions::NONE) };
    let Extras { tag, correlation, trace, user, .. } = options.metadata.as_extras();
    let mut buffer = MetaBuffer::new();
    let fits = tag.is_none_or(|tag| buffer.tag(tag))
        && correlation.is_none_or(|id| buffer.correlation(id))
        && trace.is_none_or(|context| buffer.trace(context))
        && user.is_none_or(|bytes| buffer.user(bytes));
    debug_assert!(fits, "it was checked when the message was accepted");
    let committed = options.level == Level::Committed;
    let lane = options.lane.map(|Lane { number, before }| (number, before));
    write(&Extensions { lane, committed, meta: buffer.meta(), ..Extensions::NONE })
}

/// What the application is shown of a frame's metadata; `None` if it brought nothing that is known.
#[must_use]
pub fn extras(meta: Meta<'_>) -> Option<Extras<'_>> {
    let extras = Extras {
        tag: meta.tag(),
        correlation: meta.correlation(),
        trace: meta.trace(),
        user: meta.user(),
        ..Extras::default()
    };
    (extras != Extras::default()).then_some(extras)
}

/// The options of a message that left with these extensions, as far as they travel.
#[must_use]
pub fn options(extensions: &Extensions<'_>) -> Option<Box<Options>> {
    let metadata = extras(extensions.meta)?.to_metadata();
    Some(Box::new(Options { metadata, ..Options::default() }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Metadata;
    use bytes::Bytes;

    fn options(trace: usize, user: usize) -> Options {
        let bytes = |count| Some(Bytes::from(vec![7; count]));
        let metadata =
            Metadata { tag: Some(1), correlation: Some(2), trace: bytes(trace), user: bytes(user) };
        Options { metadata, ..Options::default() }
    }

    #[test]
    fn what_is_written_is_as_long_as_announced_and_reads_back() {
        let lane = Some(Lane { number: 7, before: 9 });
        let laned = Options { lane, ..Options::default() };
        let all = Options { lane, ..options(24, 100) };
        for options in [Options::default(), options(0, 0), options(24, 100), options(0, 235), laned, all] {
            assert_eq!(check_options(&options, b"x", true), Ok(()));
            with_extensions(Some(&options), |extensions| {
                assert_eq!(extensions.bytes(), extension_bytes(Some(&options)));
                let read = Meta::read(extensions.meta.as_bytes()).unwrap();
                let metadata = extras(read).map(Extras::to_metadata).unwrap_or_default();
                assert_eq!(metadata, options.metadata);
                assert_eq!(extensions.lane, options.lane.map(|_| (7, 9)));
            });
        }
        assert_eq!(extension_bytes(Some(&options(0, 235))), 1 + META_BYTES_MAX);
        assert_eq!(extension_bytes(None), 0);
    }

    #[test]
    fn metadata_that_cannot_travel_is_refused_by_name() {
        let refused = |refusal| Err(SubmitReason::Refused(refusal));
        assert_eq!(check_options(&options(0, 236), b"x", true), refused(Refusal::MetadataTooLong));
        assert_eq!(check_options(&options(100_000, 0), b"x", false), refused(Refusal::MetadataTooLong));
        assert_eq!(check_options(&options(0, 0), b"x", false), refused(Refusal::MetadataNeedsBinary));
        assert_eq!(check_options(&Options::default(), b"x", false), Ok(()));
        let committed = Options { level: Level::Committed, ..options(0, 0) };
        assert_eq!(check_options(&committed, b"x", false), refused(Refusal::CommitNeedsBinary));
        assert_eq!(check_options(&committed, b"", true), refused(Refusal::EmptyCommitted));
        assert_eq!(check_options(&committed, b"x", true), Ok(()));
        let laned = Options { lane: Some(Lane { number: 0, before: 0 }), ..Options::default() };
        assert_eq!(check_options(&laned, b"x", false), refused(Refusal::LaneNeedsBinary));
        assert_eq!(check_options(&laned, b"", true), refused(Refusal::EmptyInLane));
        assert_eq!(check_options(&laned, b"x", true), Ok(()));
        assert!(leaves_in_chunks(Some(&laned)) && leaves_in_chunks(Some(&committed)));
        assert!(!leaves_in_chunks(Some(&options(0, 0))) && !leaves_in_chunks(None));
    }
}

//! Why a received datagram, or a part of it, had no effect. One counter each.

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $label:literal,)+) => {
        /// Why a received row had no effect. Copy, no allocation; every reason has its own counter.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        #[non_exhaustive]
        pub enum DropReason { $($(#[doc = $doc])+ $name,)+ }

        impl DropReason {
            /// Every reason, in the order of the counters.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The name of the counter, `snake_case`.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)+ }
            }
        }
    };
}

drop_reasons! {
    /// A datagram of zero bytes.
    Empty = "empty",
    /// The first byte announces the binary wire, and its sender is a peer of `Wire::Csv`.
    BinaryWire = "binary_wire",
    /// Fewer columns than the command needs.
    TooFewColumns = "too_few_columns",
    /// A quoted field that never ends.
    UnterminatedQuote = "unterminated_quote",
    /// Column 0 is neither empty nor a whole number.
    BadCommand = "bad_command",
    /// Column 0 is a whole number that is no command.
    UnknownCommand = "unknown_command",
    /// Column 2 is not a whole number of 1 or more.
    BadLength = "bad_length",
    /// Column 3 is not a whole number of 0 or more.
    BadChunkId = "bad_chunk_id",
    /// Column 3 is not below column 2.
    ChunkBeyondLength = "chunk_beyond_length",
    /// Column 4 is not base64 that the original would decode.
    BadBase64 = "bad_base64",
    /// The op id is longer than `OP_ID_BYTES_MAX`.
    OpIdTooLong = "op_id_too_long",
    /// The row is not UTF-8 text.
    NotUtf8 = "not_utf8",
    /// More chunks than `chunk_count_max`, or more bytes than `message_bytes_max`.
    MessageTooLarge = "message_too_large",
    /// The number of chunks differs from the first row of this operation.
    LengthChanged = "length_changed",
    /// No room for another partial message, of this peer or in total. Not confirmed: the sender tries again.
    PartialsFull = "partials_full",
    /// The receive bucket is full. Not confirmed: the sender tries again.
    BucketFull = "bucket_full",
    /// The actor refused the message.
    Refused = "refused",
    /// The dedup table is full of young entries. Not confirmed: the sender tries again.
    DedupFull = "dedup_full",
    /// Already delivered; confirmed again.
    Duplicate = "duplicate",
    /// The operation expired here, or an earlier operation in the sender's slot: not confirmed.
    Stale = "stale",
    /// A confirm for an operation that is not in flight.
    UnknownConfirm = "unknown_confirm",
    /// A confirm from another address than the operation was sent to.
    ForeignConfirm = "foreign_confirm",
    /// A confirm for a chunk that was never sent.
    UnsentConfirm = "unsent_confirm",
    /// A confirm for a chunk that is already confirmed.
    DuplicateConfirm = "duplicate_confirm",
    /// It belongs to another shard whose inbox is full.
    ForwardFull = "forward_full",
    /// A binary datagram shorter than its header.
    BinaryTruncated = "binary_truncated",
    /// A binary datagram of another version than ours.
    BinaryVersion = "binary_version",
    /// A flag, or a reserved byte, that has no meaning yet.
    BinaryFlags = "binary_flags",
    /// Sealed with a key that we do not have.
    BinaryProtected = "binary_protected",
    /// The checksum of a binary datagram is wrong.
    BinaryChecksum = "binary_checksum",
    /// A frame of a binary datagram makes no sense, or there is none.
    BinaryMalformed = "binary_malformed",
    /// A destination tag that we did not give out, or have taken back; or a RESET that names none in use.
    BinaryUnknownTag = "binary_unknown_tag",
    /// A binary datagram outside a handshake or a flow: its address has not proven itself, or it is not the answer that is
    /// waited for.
    BinaryUnproven = "binary_unproven",
    /// A packet number that came before, or is too old to tell.
    BinaryDuplicate = "binary_duplicate",
    /// Too many results wait to be heard of: what the datagram brings could not be answered (R-OUTCOME-4).
    BinaryBeyondCredit = "binary_beyond_credit",
    /// Under a valid tag, from another start of the sender than the one the tag was given to.
    LateEpoch = "late_epoch",
    /// A row, or a binary datagram that is not sealed, where everything has to be.
    Unprotected = "unprotected",
    /// A sealed datagram that does not open: altered, forged, or sealed with another key.
    BinaryUnauthentic = "binary_unauthentic",
}

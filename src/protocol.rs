//! The wire contract, shared by the gateway, the load tester and the client: messages, their three encodings and the
//! close codes. Pure: bytes in, values out.

pub mod cbor;
pub mod client;
pub mod close;
pub mod fields;
pub mod json;
pub mod message;
pub mod protobuf;

use message::{DeviceMessage, GatewayMessage, Refusal};

/// How messages are written on one connection, chosen by `Sec-WebSocket-Protocol`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Encoding {
    /// JSON in text frames: `tidegate.v1.json`, and where no protocol was asked for.
    #[default]
    Json,
    /// CBOR in binary frames: `tidegate.v1.cbor`.
    Cbor,
    /// Protobuf in binary frames: `tidegate.v1.protobuf`.
    Protobuf,
}

impl Encoding {
    /// Every encoding.
    pub const ALL: [Self; 3] = [Self::Json, Self::Cbor, Self::Protobuf];

    /// The subprotocol's name.
    pub const fn subprotocol(self) -> &'static str {
        match self {
            Self::Json => "tidegate.v1.json",
            Self::Cbor => "tidegate.v1.cbor",
            Self::Protobuf => "tidegate.v1.protobuf",
        }
    }

    /// The encoding a subprotocol names.
    pub fn from_subprotocol(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|encoding| encoding.subprotocol() == name)
    }

    /// Whether messages travel in text frames (else binary).
    pub const fn is_text(self) -> bool {
        matches!(self, Self::Json)
    }
}

/// What the codecs are bound by.
#[derive(Debug, Clone, Copy)]
pub struct CodecLimits {
    /// Largest JSON form of one message, in bytes.
    pub message_bytes: usize,
    /// Most messages in one frame.
    pub batch_items: usize,
}

/// Reads the messages of one frame and hands each to `item`, in order, with its place in the frame (0-based). Items
/// before `skip` are passed over, so that a batch that did not fit a window can be taken up where it was left.
/// `item` returns whether to go on. A frame that is no frame at all (malformed, too many items) is one refusal at place 0.
/// An empty batch hands over nothing.
///
/// `frame` of a JSON connection must be valid UTF-8: the reader has checked it.
pub fn read_frame<'a>(
    encoding: Encoding,
    frame: &'a [u8],
    limits: CodecLimits,
    skip: usize,
    item: &mut dyn FnMut(usize, Result<DeviceMessage<'a>, Refusal>) -> bool,
) {
    match encoding {
        Encoding::Json => json::read_frame(frame, limits, skip, item),
        Encoding::Cbor => cbor::read_frame(frame, limits, skip, item),
        Encoding::Protobuf => protobuf::read_frame(frame, limits, skip, item),
    }
}

/// Appends the payload of one message's frame to `out`.
pub fn write_message(encoding: Encoding, message: &GatewayMessage<'_>, out: &mut Vec<u8>) {
    match encoding {
        Encoding::Json => json::write_message(message, out),
        Encoding::Cbor => cbor::write_message(message, out),
        Encoding::Protobuf => protobuf::write_message(message, out),
    }
}

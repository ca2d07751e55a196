//! The gateway's frame sources under their own paths, without the rest of the gateway.

#[path = "../src/protocol/close.rs"]
pub mod close;
#[path = "../src/socket/decoder.rs"]
pub mod decoder;
#[path = "../src/socket/deflate.rs"]
pub mod deflate;
#[path = "../src/socket/encoder.rs"]
pub mod encoder;

/// The part of the wire contract the reader names.
pub mod protocol {
    pub use crate::close;
}

/// Reader, writer and compression.
pub mod socket {
    pub use crate::{decoder, deflate, encoder};
}

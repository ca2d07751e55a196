//! (to come)

use super::CodecLimits;
use super::message::{DeviceMessage, GatewayMessage, Refusal};

pub(super) fn read_frame<'a>(
    _: &'a [u8],
    _: CodecLimits,
    _: usize,
    _: &mut dyn FnMut(usize, Result<DeviceMessage<'a>, Refusal>) -> bool,
) {
}

pub(super) fn write_message(_: &GatewayMessage<'_>, _: &mut Vec<u8>) {}

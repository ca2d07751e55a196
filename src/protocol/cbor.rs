//! CBOR in binary frames. A message is put into its JSON form, in the order its fields were sent, and read as that.

use std::collections::BTreeMap;

use minicbor::data::Type;
use minicbor::decode::{Decoder, Error as DecodeError};
use serde_json::Value;
use serde_json::value::RawValue;

use super::CodecLimits;
use super::fields::{self, Field, Held};
use super::json::{self, Fault, Item, malformed, too_many, write_bytes, write_text};
use super::message::{DeviceMessage, GatewayMessage, Refusal};

/// Containers within containers, the message itself counted: as JSON has it.
const MAX_DEPTH: u8 = 127;

pub(super) fn read_frame<'a>(frame: &'a [u8], limits: CodecLimits, skip: usize, item: Item<'_, 'a>) {
    match split_frame(frame, limits.batch_items) {
        Ok(Frame::One) => {
            if skip == 0 {
                item(0, read_message(frame, limits));
            }
        }
        Ok(Frame::Batch(messages)) => {
            for (place, message) in messages.into_iter().enumerate().skip(skip) {
                if !item(place, read_message(message, limits)) {
                    return;
                }
            }
        }
        Err(fault) => {
            item(0, Err(fault.into_refusal(None, None)));
        }
    }
}

enum Frame<'a> {
    One,
    Batch(Vec<&'a [u8]>),
}

fn split_frame(frame: &[u8], most: usize) -> Result<Frame<'_>, Fault> {
    let mut input = Decoder::new(frame);
    match input.datatype().map_err(|error| bad_cbor(&error))? {
        Type::Array | Type::ArrayIndef => {}
        _ => return Ok(Frame::One),
    }
    let count = input.array().map_err(|error| bad_cbor(&error))?;
    if count.is_some_and(|count| count > most as u64) {
        return Err(too_many(most));
    }
    let mut messages = Vec::new();
    while more(&mut input, count, messages.len() as u64).map_err(|error| bad_cbor(&error))? {
        if messages.len() == most {
            return Err(too_many(most));
        }
        let start = input.position();
        input.skip().map_err(|error| bad_cbor(&error))?;
        messages.push(frame.get(start..input.position()).unwrap_or_default());
    }
    if input.position() == frame.len() { Ok(Frame::Batch(messages)) } else { Err(malformed("bytes after the batch")) }
}

/// Whether a container of `count` items (none: indefinite), of which `done` were read, goes on.
fn more(input: &mut Decoder<'_>, count: Option<u64>, done: u64) -> Result<bool, DecodeError> {
    match count {
        Some(count) => Ok(done < count),
        None if input.datatype()? == Type::Break => {
            input.set_position(input.position() + 1);
            Ok(false)
        }
        None => Ok(true),
    }
}

fn bad_cbor(error: &DecodeError) -> Fault {
    match error.position() {
        Some(at) => malformed(format!("not valid CBOR at byte {at}")),
        None => malformed("not valid CBOR"),
    }
}

fn read_message(bytes: &[u8], limits: CodecLimits) -> Result<DeviceMessage<'static>, Refusal> {
    match to_json(bytes) {
        Ok(json) => json::read_made(json, limits),
        Err(fault) => {
            let (seq, id) = salvage(bytes).unwrap_or_default();
            Err(fault.into_refusal(seq, id))
        }
    }
}

/// The JSON form of one message.
pub(super) fn to_json(bytes: &[u8]) -> Result<Vec<u8>, Fault> {
    let mut input = Decoder::new(bytes);
    match input.datatype().map_err(|error| bad_cbor(&error))? {
        Type::Map | Type::MapIndef => {}
        _ => return Err(malformed("a message is a map")),
    }
    let mut out = Vec::with_capacity(bytes.len() * 2);
    write_map(&mut input, 1, &mut out)?;
    if input.position() == bytes.len() { Ok(out) } else { Err(malformed("bytes after the message")) }
}

/// Finds `seq` and `id` of a message that has no JSON form.
fn salvage(bytes: &[u8]) -> Option<(Option<u64>, Option<String>)> {
    let mut input = Decoder::new(bytes);
    let count = input.map().ok()?;
    let (mut seq, mut id) = (None, None);
    let (mut seqs, mut ids, mut done) = (0, 0, 0);
    while more(&mut input, count, done).unwrap_or(false) {
        done += 1;
        let Ok(key) = read_key(&mut input, true) else { break };
        let start = input.position();
        if input.skip().is_err() {
            break;
        }
        let mut value = Decoder::new(bytes.get(start..input.position()).unwrap_or_default());
        match key.as_str() {
            "seq" => {
                seqs += 1;
                seq = value.u64().ok().filter(|number| json::is_seq(*number));
            }
            "id" => {
                ids += 1;
                id = value.str().ok().filter(|text| json::is_message_id(text)).map(str::to_owned);
            }
            _ => {}
        }
    }
    // Of two spellings nobody knows which was meant.
    Some((seq.filter(|_| seqs == 1), id.filter(|_| ids == 1)))
}

fn write_value(input: &mut Decoder<'_>, depth: u8, out: &mut Vec<u8>) -> Result<(), Fault> {
    let broken = |error: DecodeError| bad_cbor(&error);
    match input.datatype().map_err(broken)? {
        Type::Bool => out.extend_from_slice(if input.bool().map_err(broken)? { b"true" } else { b"false" }),
        Type::Null => {
            input.null().map_err(broken)?;
            out.extend_from_slice(b"null");
        }
        Type::U8 | Type::U16 | Type::U32 | Type::U64 | Type::I8 | Type::I16 | Type::I32 | Type::I64 | Type::Int => {
            let number = i128::from(input.int().map_err(broken)?);
            out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
        }
        Type::F16 => write_number(shortest_half(input.f16().map_err(broken)?), out)?,
        Type::F32 => {
            let number = input.f32().map_err(broken)?;
            finite(f64::from(number))?;
            out.extend_from_slice(format!("{number:?}").as_bytes());
        }
        Type::F64 => write_number(input.f64().map_err(broken)?, out)?,
        Type::String | Type::StringIndef => write_text(&read_text(input)?, out),
        Type::Bytes | Type::BytesIndef => {
            let mut bytes = Vec::new();
            for chunk in input.bytes_iter().map_err(broken)? {
                bytes.extend_from_slice(chunk.map_err(broken)?);
            }
            write_bytes(&bytes, out);
        }
        Type::Array | Type::ArrayIndef => write_array(input, depth, out)?,
        Type::Map | Type::MapIndef => write_map(input, deeper(depth)?, out)?,
        Type::Tag => return Err(malformed("a CBOR tag has no JSON form")),
        _ => return Err(malformed("undefined and simple values have no JSON form")),
    }
    Ok(())
}

fn deeper(depth: u8) -> Result<u8, Fault> {
    if depth < MAX_DEPTH { Ok(depth + 1) } else { Err(malformed("nested too deeply")) }
}

fn write_array(input: &mut Decoder<'_>, depth: u8, out: &mut Vec<u8>) -> Result<(), Fault> {
    let depth = deeper(depth)?;
    let count = input.array().map_err(|error| bad_cbor(&error))?;
    let mut done = 0;
    out.push(b'[');
    while more(input, count, done).map_err(|error| bad_cbor(&error))? {
        if done > 0 {
            out.push(b',');
        }
        done += 1;
        write_value(input, depth, out)?;
    }
    out.push(b']');
    Ok(())
}

/// Repeated keys, and both spellings of one, become a repeated key in JSON: found there.
fn write_map(input: &mut Decoder<'_>, depth: u8, out: &mut Vec<u8>) -> Result<(), Fault> {
    let count = input.map().map_err(|error| bad_cbor(&error))?;
    let mut done = 0;
    out.push(b'{');
    while more(input, count, done).map_err(|error| bad_cbor(&error))? {
        if done > 0 {
            out.push(b',');
        }
        done += 1;
        write_text(&read_key(input, depth == 1)?, out);
        out.push(b':');
        write_value(input, depth, out)?;
    }
    out.push(b'}');
    Ok(())
}

/// A key: text, or, in the message itself, an integer. One that stands for no field keeps its digits, so that nothing a
/// newer device sends gets lost.
fn read_key(input: &mut Decoder<'_>, of_message: bool) -> Result<String, Fault> {
    match input.datatype().map_err(|error| bad_cbor(&error))? {
        Type::String | Type::StringIndef => read_text(input),
        Type::U8 | Type::U16 | Type::U32 | Type::U64 | Type::I8 | Type::I16 | Type::I32 | Type::I64 | Type::Int
            if of_message =>
        {
            let key = i128::from(input.int().map_err(|error| bad_cbor(&error))?);
            Ok(Field::from_cbor_key(key).map_or_else(|| key.to_string(), |field| field.name().to_owned()))
        }
        _ if of_message => Err(malformed("a key must be text or an integer")),
        _ => Err(malformed("a key inside a value must be text")),
    }
}

fn read_text(input: &mut Decoder<'_>) -> Result<String, Fault> {
    let mut text = String::new();
    for chunk in input.str_iter().map_err(|error| bad_cbor(&error))? {
        text.push_str(chunk.map_err(|error| bad_cbor(&error))?);
    }
    Ok(text)
}

fn finite(number: f64) -> Result<(), Fault> {
    if number.is_finite() { Ok(()) } else { Err(malformed("NaN and infinities have no JSON form")) }
}

/// Appends a double as the shortest decimal that reads back as it.
pub(super) fn write_number(number: f64, out: &mut Vec<u8>) -> Result<(), Fault> {
    finite(number)?;
    out.extend_from_slice(format!("{number:?}").as_bytes());
    Ok(())
}

/// The double nearest to the shortest decimal that, as a half, reads back as `half`: 0.1 for the half next to it.
fn shortest_half(half: f32) -> f64 {
    let exact = f64::from(half);
    if !exact.is_finite() || exact == 0.0 {
        return exact;
    }
    // Ten bits after the first, the smallest normal exponent being -14.
    let exponent = exact.abs().log2().floor().max(-14.0);
    let reach = (exponent - 11.0).exp2();
    for digits in 0..5 {
        let short = format!("{exact:.digits$e}").parse::<f64>().unwrap_or(exact);
        // Below a power of two the next half is only half as far.
        let margin = if short.abs() < exact.abs() && exact.abs() == exponent.exp2() { reach / 2.0 } else { reach };
        if (short - exact).abs() < margin {
            return short;
        }
    }
    exact
}

pub(super) fn write_message(message: &GatewayMessage<'_>, out: &mut Vec<u8>) {
    let mut count = 0;
    fields::each(message, &mut |_, _| count += 1);
    write_head(Major::Map, count, out);
    fields::each(message, &mut |field, held| {
        write_string(field.name(), out);
        match held {
            Held::Text(text) => write_string(text, out),
            Held::Unsigned(number) => write_head(Major::Unsigned, number, out),
            Held::Signed(number) => write_integer(number, out),
            Held::Flag(flag) => out.push(if flag { 0xf5 } else { 0xf4 }),
            Held::Json(json) => write_json_text(json, out),
        }
    });
}

/// The kinds of item that have a count or a number in their head.
#[derive(Clone, Copy)]
pub(super) enum Major {
    Unsigned = 0,
    Negative = 1,
    Text = 3,
    Array = 4,
    Map = 5,
}

/// Appends an item's head in its shortest form.
pub(super) fn write_head(major: Major, number: u64, out: &mut Vec<u8>) {
    let major = (major as u8) << 5;
    if number < 24 {
        out.push(major | number as u8);
    } else if let Ok(number) = u8::try_from(number) {
        out.extend_from_slice(&[major | 24, number]);
    } else if let Ok(number) = u16::try_from(number) {
        out.push(major | 25);
        out.extend_from_slice(&number.to_be_bytes());
    } else if let Ok(number) = u32::try_from(number) {
        out.push(major | 26);
        out.extend_from_slice(&number.to_be_bytes());
    } else {
        out.push(major | 27);
        out.extend_from_slice(&number.to_be_bytes());
    }
}

pub(super) fn write_integer(number: i64, out: &mut Vec<u8>) {
    match u64::try_from(number) {
        Ok(number) => write_head(Major::Unsigned, number, out),
        Err(_) => write_head(Major::Negative, !(number as u64), out),
    }
}

pub(super) fn write_string(text: &str, out: &mut Vec<u8>) {
    write_head(Major::Text, text.len() as u64, out);
    out.extend_from_slice(text.as_bytes());
}

/// Appends a JSON value from its text, each double exactly as it stands there. Text that is no JSON becomes null.
fn write_json_text(text: &str, out: &mut Vec<u8>) {
    if let Ok(members) = serde_json::from_str::<BTreeMap<String, &RawValue>>(text) {
        write_head(Major::Map, members.len() as u64, out);
        for (key, member) in members {
            write_string(&key, out);
            write_json_text(member.get(), out);
        }
    } else if let Ok(items) = serde_json::from_str::<Vec<&RawValue>>(text) {
        write_head(Major::Array, items.len() as u64, out);
        items.into_iter().for_each(|item| write_json_text(item.get(), out));
    } else if let Some(double) = json::double_of(text) {
        out.push(0xfb);
        out.extend_from_slice(&double.to_be_bytes());
    } else {
        write_json(&serde_json::from_str(text).unwrap_or_default(), out);
    }
}

/// Appends a JSON value.
pub(super) fn write_json(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.push(0xf6),
        Value::Bool(flag) => out.push(if *flag { 0xf5 } else { 0xf4 }),
        Value::Number(number) => {
            if let Some(number) = number.as_u64() {
                write_head(Major::Unsigned, number, out);
            } else if let Some(number) = number.as_i64() {
                write_integer(number, out);
            } else {
                out.push(0xfb);
                out.extend_from_slice(&number.as_f64().unwrap_or_default().to_be_bytes());
            }
        }
        Value::String(text) => write_string(text, out),
        Value::Array(items) => {
            write_head(Major::Array, items.len() as u64, out);
            items.iter().for_each(|item| write_json(item, out));
        }
        Value::Object(members) => {
            write_head(Major::Map, members.len() as u64, out);
            for (key, member) in members {
                write_string(key, out);
                write_json(member, out);
            }
        }
    }
}

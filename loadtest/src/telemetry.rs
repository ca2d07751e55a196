//! What simulated devices measure: updates of exactly 150 bytes whose figures vary as those of sensors do, so that they
//! compress like telemetry and not like padding. Every peer gets the same ones.

use std::time::{SystemTime, UNIX_EPOCH};

/// Bytes of one update.
pub const UPDATE_BYTES: usize = 150;
/// The `seq` of a connection's first update: all have seven digits, so that all updates have one length.
pub const FIRST_SEQ: u64 = 1_000_000;

const TEMPLATE: &[u8; UPDATE_BYTES] =
    b"{\"type\":\"update\",\"device_id\":\"bench-000000\",\"seq\":1000000,\"name\":\"climate\",\
      \"timestamp\":\"2026-01-01T00:00:00.000Z\",\"value\":{\"c\":20.00,\"h\":40.0,\"v\":30}}";
const DEVICE: usize = 36;
const SEQ: usize = 50;
const MOMENT: usize = 88;
const CELSIUS: usize = 127;
const HUMIDITY: usize = 137;
const VOLTAGE: usize = 146;

/// One device's measurements.
pub struct Telemetry {
    text: [u8; UPDATE_BYTES],
    random: u64,
}

/// The id of the device with this number, below a million.
pub fn device_id(number: u64) -> String {
    format!("bench-{number:06}")
}

/// Milliseconds since 1970.
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

impl Telemetry {
    /// The device with this number; `unix_ms` says which day and hour its measurements bear.
    pub fn new(number: u64, unix_ms: u64) -> Self {
        let mut text = *TEMPLATE;
        put_digits(&mut text[DEVICE..DEVICE + 6], number);
        put_date(&mut text, unix_ms / 1_000);
        Self { text, random: number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 }
    }

    /// The update numbered `seq`, measured at `unix_ms`. Only its minute and what is below it are written anew.
    pub fn update(&mut self, seq: u64, unix_ms: u64) -> &[u8] {
        // xorshift64: two or three steps of a sensor are as unlike as this.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let noise = self.random;
        put_digits(&mut self.text[SEQ..SEQ + 7], seq);
        put_digits(&mut self.text[MOMENT + 14..MOMENT + 16], unix_ms / 60_000 % 60);
        put_digits(&mut self.text[MOMENT + 17..MOMENT + 19], unix_ms / 1_000 % 60);
        put_digits(&mut self.text[MOMENT + 20..MOMENT + 23], unix_ms % 1_000);
        put_digits(&mut self.text[CELSIUS + 1..CELSIUS + 2], noise % 4);
        put_digits(&mut self.text[CELSIUS + 3..CELSIUS + 5], noise >> 8);
        put_digits(&mut self.text[HUMIDITY + 1..HUMIDITY + 2], noise >> 16);
        put_digits(&mut self.text[HUMIDITY + 3..HUMIDITY + 4], noise >> 24);
        put_digits(&mut self.text[VOLTAGE + 1..VOLTAGE + 2], noise >> 32);
        &self.text
    }
}

/// An update of `bytes`, most of them one long text of hexadecimal digits.
pub fn large_update(device: &str, seq: u64, bytes: usize) -> Vec<u8> {
    let head = format!("{{\"type\":\"update\",\"device_id\":\"{device}\",\"seq\":{seq},\"name\":\"log\",\"value\":\"");
    let mut text = head.into_bytes();
    let mut random = seq | 1;
    while text.len() + 2 < bytes {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        text.push(b"0123456789abcdef"[(random >> 60) as usize]);
    }
    text.extend_from_slice(b"\"}");
    text
}

/// The last digits of `number`, as many as there is room for.
fn put_digits(room: &mut [u8], mut number: u64) {
    for place in room.iter_mut().rev() {
        *place = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// Year, month, day and hour, by counting days from the first of March, when a leap day is a year's last.
fn put_date(text: &mut [u8], unix_s: u64) {
    let days = unix_s / 86_400 + 719_468;
    let of_era = days % 146_097;
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let since_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * since_march + 2) / 5 + 1;
    let month = if since_march < 10 { since_march + 3 } else { since_march - 9 };
    let year = year_of_era + days / 146_097 * 400 + u64::from(month <= 2);
    put_digits(&mut text[MOMENT..MOMENT + 4], year);
    put_digits(&mut text[MOMENT + 5..MOMENT + 7], month);
    put_digits(&mut text[MOMENT + 8..MOMENT + 10], day);
    put_digits(&mut text[MOMENT + 11..MOMENT + 13], unix_s / 3_600 % 24);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_update_is_json_of_150_bytes_with_its_figures_where_they_belong() {
        let at = 1_772_368_496_789;
        let mut device = Telemetry::new(1_234, at);
        let first: serde_json::Value = serde_json::from_slice(device.update(FIRST_SEQ, at)).unwrap();
        assert_eq!(first["device_id"], device_id(1_234));
        assert_eq!(first["seq"], FIRST_SEQ);
        assert_eq!(first["timestamp"], "2026-03-01T12:34:56.789Z");
        let second = device.update(FIRST_SEQ + 1, at + 5_001).to_vec();
        assert_eq!(second.len(), UPDATE_BYTES);
        let second: serde_json::Value = serde_json::from_slice(&second).unwrap();
        assert_eq!(second["timestamp"], "2026-03-01T12:35:01.790Z");
        assert_ne!(second["value"], first["value"]);
        assert!((20.0..24.0).contains(&second["value"]["c"].as_f64().unwrap()));
    }

    #[test]
    fn a_large_update_is_json_of_the_length_asked_for() {
        let text = large_update("bench-000001", FIRST_SEQ, 60_000);
        assert_eq!(text.len(), 60_000);
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&text).unwrap()["seq"], FIRST_SEQ);
    }
}

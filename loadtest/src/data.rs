//! What simulated devices measure: plausible values that follow one another as real ones do, the same again for the same
//! seed.

use std::fmt::Write as _;

use fastrand::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a device measures.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A counter and a random number: nothing but load.
    #[default]
    Plain,
    /// Temperature and humidity of a room, in turn.
    Climate,
    /// A door that is opened and closed.
    Door,
    /// Power and energy of a plug.
    Power,
    /// Vibration, speed and current of a machine, and now and then an alarm.
    Machine,
    /// Heart rate and steps of a person who rests, walks and runs.
    Wearable,
    /// A position on a route through a city, and now and then a stop.
    Tracker,
}

/// One value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// What was measured.
    pub name: &'static str,
    /// The value: JSON text.
    pub value: String,
}

/// What one device measures.
#[derive(Debug, Clone)]
pub struct Instrument {
    kind: Kind,
    rng: Rng,
    /// Readings so far.
    count: u32,
    /// What the next reading depends on: each kind has its own meaning for these.
    state: [f32; 3],
    /// Per cent.
    battery: f32,
}

/// Latitude and longitude where routes begin.
const DEPOT: [f32; 2] = [48.1372, 11.5756];
/// Degrees of latitude that are a metre.
const DEGREES_PER_M: f32 = 1.0 / 111_320.0;

impl Instrument {
    /// One of this kind; another for each seed.
    pub fn new(kind: Kind, seed: u64) -> Self {
        // Neighbouring seeds must not measure alike.
        let mut rng = Rng::with_seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5bd1_e995);
        let random = |rng: &mut Rng, low: f32, high: f32| low + rng.f32() * (high - low);
        let state = match kind {
            Kind::Plain => [0.0; 3],
            // Temperature in °C, relative humidity in %.
            Kind::Climate => [random(&mut rng, 17.0, 24.0), random(&mut rng, 35.0, 60.0), 0.0],
            // Open or closed.
            Kind::Door => [0.0; 3],
            // Watts, kilowatt-hours.
            Kind::Power => [random(&mut rng, 2.0, 400.0), random(&mut rng, 0.0, 900.0), 0.0],
            // Turns a minute, vibration in mm/s, temperature of the bearing.
            Kind::Machine => {
                [random(&mut rng, 1_400.0, 1_500.0), random(&mut rng, 0.8, 2.0), random(&mut rng, 40.0, 55.0)]
            }
            // Beats a minute, steps, exertion between 0 and 1.
            Kind::Wearable => [random(&mut rng, 55.0, 75.0), 0.0, 0.0],
            // Metres north and east of the depot, course in radians.
            Kind::Tracker => {
                [random(&mut rng, -4e3, 4e3), random(&mut rng, -4e3, 4e3), random(&mut rng, 0.0, std::f32::consts::TAU)]
            }
        };
        let battery = random(&mut rng, 30.0, 100.0);
        Self { kind, rng, count: 0, state, battery }
    }

    /// The next value, `after_s` after the last one, filled up to `bytes` where it is smaller.
    pub fn read(&mut self, after_s: f32, bytes: usize) -> Reading {
        self.count = self.count.wrapping_add(1);
        let mut reading = match self.kind {
            Kind::Plain => {
                let value = format!("{{\"n\":{},\"x\":{:.4}}}", self.count, self.rng.f32());
                Reading { name: "sample", value }
            }
            Kind::Climate => self.climate(),
            Kind::Door => self.door(),
            Kind::Power => self.power(after_s),
            Kind::Machine => self.machine(),
            Kind::Wearable => self.wearable(after_s),
            Kind::Tracker => self.tracker(after_s),
        };
        fill(&mut reading.value, bytes, &mut self.rng);
        reading
    }

    /// A report of its own health, `after_s` after the last one.
    pub fn status(&mut self, after_s: f32) -> String {
        self.battery = (self.battery - after_s * 0.002).max(1.0);
        let signal = -50 - i32::from(self.rng.u8(0..45));
        let battery = self.battery;
        format!("{{\"battery\":{battery:.1},\"signal_dbm\":{signal},\"firmware\":\"2.{}.1\"}}", self.count % 3)
    }

    /// A random number between -1 and 1, mostly near 0.
    fn drift(&mut self) -> f32 {
        (self.rng.f32() + self.rng.f32() + self.rng.f32()) / 1.5 - 1.0
    }

    fn climate(&mut self) -> Reading {
        let drift = [self.drift(), self.drift()];
        let [temperature, humidity, _] = &mut self.state;
        *temperature = (*temperature + 0.15 * drift[0] + 0.002 * (21.0 - *temperature)).clamp(-20.0, 45.0);
        *humidity = (*humidity + 0.6 * drift[1] + 0.005 * (45.0 - *humidity)).clamp(5.0, 100.0);
        if self.count % 2 == 1 {
            Reading { name: "temperature", value: format!("{temperature:.1}") }
        } else {
            Reading { name: "humidity", value: format!("{humidity:.1}") }
        }
    }

    fn door(&mut self) -> Reading {
        let open = self.state[0] == 0.0;
        self.state[0] = f32::from(u8::from(open));
        Reading { name: "door", value: format!("{{\"open\":{open}}}") }
    }

    fn power(&mut self, after_s: f32) -> Reading {
        // Something is switched on or off now and then.
        let switched = self.rng.u8(..) < 10;
        let (drift, other) = (self.drift(), self.rng.f32() * 2_200.0);
        let [watts, kwh, _] = &mut self.state;
        *watts = if switched { other } else { (*watts * (1.0 + 0.01 * drift)).clamp(0.3, 3_600.0) };
        *kwh += *watts * after_s / 3.6e6;
        let volts = 230.0 + 2.0 * drift;
        Reading { name: "power", value: format!("{{\"watts\":{watts:.1},\"kwh\":{kwh:.3},\"volts\":{volts:.1}}}") }
    }

    fn machine(&mut self) -> Reading {
        let drift = [self.drift(), self.drift(), self.drift()];
        let [rpm, vibration, bearing] = &mut self.state;
        *rpm = (*rpm + 4.0 * drift[0] + 0.05 * (1_450.0 - *rpm)).clamp(0.0, 3_000.0);
        *vibration = (*vibration + 0.1 * drift[1] + 0.02 * (1.4 - *vibration)).clamp(0.1, 30.0);
        *bearing = (*bearing + 0.2 * drift[2] + 0.01 * (48.0 - *bearing)).clamp(15.0, 110.0);
        let current = 11.0 + (*rpm - 1_450.0) * 0.01 + 0.3 * drift[1];
        if *vibration > 2.2 && self.rng.u8(..) < 20 {
            let value = format!("{{\"code\":\"VIB-HIGH\",\"severity\":\"warning\",\"vibration_mm_s\":{vibration:.2}}}");
            return Reading { name: "alarm", value };
        }
        let value = format!(
            "{{\"rpm\":{rpm:.0},\"vibration_mm_s\":{vibration:.2},\"current_a\":{current:.2},\"bearing_c\":{bearing:.1}}}"
        );
        Reading { name: "machine", value }
    }

    fn wearable(&mut self, after_s: f32) -> Reading {
        // Rest, a walk, a run: each lasts for a while.
        if self.rng.u8(..) < 8 {
            self.state[2] = [0.0, 0.3, 0.9][self.rng.usize(..3)];
        }
        let drift = self.drift();
        let [heart, steps, exertion] = &mut self.state;
        *heart += 0.15 * (62.0 + 95.0 * *exertion - *heart) + 1.5 * drift;
        *steps += (*exertion * 2.9 * after_s).floor();
        if self.count.is_multiple_of(3) {
            Reading { name: "steps", value: format!("{steps:.0}") }
        } else {
            Reading { name: "heart_rate", value: format!("{heart:.0}") }
        }
    }

    fn tracker(&mut self, after_s: f32) -> Reading {
        // At a crossing it turns, at a stop it waits: within ten kilometres, since it turns back beyond them.
        let stops = self.rng.u8(..) < 20;
        if self.rng.u8(..) < 40 {
            self.state[2] += [-1.57, 1.57, 0.3, -0.3][self.rng.usize(..4)];
        }
        let speed = if stops { 0.0 } else { (13.0 + 5.0 * self.drift()).max(0.0) };
        let [north, east, course] = &mut self.state;
        if north.hypot(*east) > 1e4 {
            *course = (-*east).atan2(-*north);
        }
        *north += course.cos() * speed * after_s;
        *east += course.sin() * speed * after_s;
        let latitude = f64::from(DEPOT[0]) + f64::from(*north * DEGREES_PER_M);
        let longitude = f64::from(DEPOT[1]) + f64::from(*east * DEGREES_PER_M / DEPOT[0].to_radians().cos());
        let heading = course.to_degrees().rem_euclid(360.0);
        let value = format!(
            "{{\"lat\":{latitude:.5},\"lon\":{longitude:.5},\"speed_kmh\":{:.1},\"heading\":{heading:.0}}}",
            speed * 3.6
        );
        Reading { name: "position", value }
    }
}

/// Makes a JSON value at least `bytes` long, with text that does not compress to nothing.
fn fill(value: &mut String, bytes: usize, rng: &mut Rng) {
    if value.len() >= bytes {
        return;
    }
    let object = value.ends_with('}');
    let mut filled = if object {
        let mut start = std::mem::take(value);
        start.pop();
        start + ",\"note\":\""
    } else {
        format!("{{\"value\":{value},\"note\":\"")
    };
    while filled.len() + 2 < bytes {
        let _ = write!(filled, "{:x}", rng.u32(..));
    }
    filled.truncate(filled.len().min(bytes.max(2) - 2).max(filled.rfind('"').map_or(0, |at| at + 1)));
    filled.push_str("\"}");
    *value = filled;
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::Value;

    const ALL: [Kind; 7] =
        [Kind::Plain, Kind::Climate, Kind::Door, Kind::Power, Kind::Machine, Kind::Wearable, Kind::Tracker];

    #[test]
    fn everything_measured_is_json_and_as_large_as_asked_for() {
        for kind in ALL {
            let mut instrument = Instrument::new(kind, 7);
            for round in 0..500 {
                let bytes = if round % 3 == 0 { 40 + round } else { 0 };
                let reading = instrument.read(5.0, bytes);
                let value: Value = serde_json::from_str(&reading.value).unwrap();
                assert!(!value.is_null());
                assert!(reading.value.len() >= bytes && reading.value.len() <= bytes.max(130), "{reading:?}");
                serde_json::from_str::<Value>(&instrument.status(60.0)).unwrap();
            }
        }
    }

    #[test]
    fn one_seed_measures_the_same_again_and_another_something_else() {
        for kind in [Kind::Plain, Kind::Climate, Kind::Machine, Kind::Tracker] {
            let mut readings =
                [1, 1, 2].map(|seed| Instrument::new(kind, seed)).map(|mut i| (i.read(1.0, 0), i.read(1.0, 0)));
            assert_eq!(readings[0], readings[1]);
            assert_ne!(readings[0], readings[2]);
            readings.reverse();
        }
    }

    #[test]
    fn a_truck_moves_as_far_as_its_speed_allows_and_stays_in_town() {
        let mut truck = Instrument::new(Kind::Tracker, 3);
        let mut last: Option<(f64, f64)> = None;
        for _ in 0..5_000 {
            let value: Value = serde_json::from_str(&truck.read(2.0, 0).value).unwrap();
            let here = (value["lat"].as_f64().unwrap(), value["lon"].as_f64().unwrap());
            if let Some(last) = last {
                let north = (here.0 - last.0) * 111_320.0;
                let east = (here.1 - last.1) * 111_320.0 * 0.667;
                assert!(north.hypot(east) < 2.0 * 20.0, "a jump of {} m in 2 s", north.hypot(east));
            }
            assert!((here.0 - 48.1372).abs() < 0.12 && (here.1 - 11.5756).abs() < 0.18, "{here:?}");
            last = Some(here);
        }
    }

    #[test]
    fn a_room_stays_habitable_and_steps_only_rise() {
        let mut room = Instrument::new(Kind::Climate, 11);
        for _ in 0..5_000 {
            let reading = room.read(10.0, 0);
            let value: f64 = reading.value.parse().unwrap();
            let range = if reading.name == "temperature" { 10.0..35.0 } else { 20.0..70.0 };
            assert!(range.contains(&value), "{reading:?}");
        }
        let mut person = Instrument::new(Kind::Wearable, 5);
        let mut steps = 0.0;
        for _ in 0..3_000 {
            let reading = person.read(5.0, 0);
            let value: f64 = reading.value.parse().unwrap();
            if reading.name == "steps" {
                assert!(value >= steps);
                steps = value;
            } else {
                assert!((40.0..190.0).contains(&value), "{reading:?}");
            }
        }
        assert!(steps > 100.0);
    }
}

//! Kafka's own produce round trip: librdkafka with the gateway's settings, a fixed rate, latency from the scheduled
//! send. Prints the 50th and the 99th percentile in milliseconds.
//!
//! `bare-producer BROKERS RATE WARM_SECONDS SECONDS`

#![allow(clippy::print_stdout, reason = "the figures are its output")]

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};
use rdkafka::{ClientConfig, ClientContext};
use tidegate_loadtest::telemetry::{FIRST_SEQ, Telemetry, device_id, unix_ms};

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Latencies = Arc<Mutex<Histogram<u64>>>;

const DEVICES: u64 = 200;

struct Reports(Latencies);

impl ClientContext for Reports {}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<Option<Instant>>;

    fn delivery(&self, result: &DeliveryResult<'_>, scheduled: Self::DeliveryOpaque) {
        if let (Ok(_), Some(scheduled)) = (result, *scheduled) {
            let late = scheduled.elapsed().as_micros() as u64;
            let _ = self.0.lock().unwrap_or_else(PoisonError::into_inner).record(late);
        }
    }
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [brokers, rate, warm, seconds] = arguments.as_slice() else {
        return Err("usage: bare-producer BROKERS RATE WARM SECONDS".into());
    };
    let (rate, warm, seconds): (f64, f64, f64) = (rate.parse()?, warm.parse()?, seconds.parse()?);
    let latencies: Latencies = Arc::new(Mutex::new(Histogram::new(3)?));
    let producer: ThreadedProducer<Reports> = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("linger.ms", "1")
        .set("compression.type", "lz4")
        .create_with_context(Reports(latencies.clone()))?;
    let mut devices: Vec<Telemetry> = (0..DEVICES).map(|number| Telemetry::new(number, unix_ms())).collect();
    let begin = Instant::now();
    for place in 0..((warm + seconds) * rate) as u64 {
        let at = place as f64 / rate;
        let scheduled = begin + Duration::from_secs_f64(at);
        thread::sleep(scheduled.saturating_duration_since(Instant::now()));
        let device = place % DEVICES;
        let key = format!("bench/{}", device_id(device));
        let payload = devices[device as usize].update(FIRST_SEQ + place / DEVICES, unix_ms());
        let counted = Box::new((at >= warm).then_some(scheduled));
        let record = BaseRecord::with_opaque_to("bare.telemetry", counted).key(&key).payload(payload);
        producer.send(record).map_err(|(error, _)| error)?;
    }
    producer.flush(Duration::from_secs(10))?;
    let latencies = latencies.lock().unwrap_or_else(PoisonError::into_inner);
    let ms = |quantile| latencies.value_at_quantile(quantile) as f64 / 1000.0;
    println!("{} {}", ms(0.5), ms(0.99));
    Ok(())
}

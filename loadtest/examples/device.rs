//! A device at level 2: measures every second, does as it is told, and loses nothing while the network comes and goes.
//!
//!     cargo run -p tidegate-loadtest --example device -- ws://127.0.0.1:8080 sensor-001 [TOKEN]
#![allow(clippy::print_stdout, reason = "it shows what it does")]

use std::time::Duration;

use tidegate_loadtest::device::{self, Acked, Answer, Command, Options, Reply, TokenSource, Update, Watcher};

struct Lamp;

impl Watcher for Lamp {
    fn acked(&mut self, acked: &Acked<'_>) {
        println!("stored: {} of boot {}", acked.seq, acked.boot);
    }

    fn command(&mut self, command: &Command<'_>) -> Answer {
        println!("told to {} {}", command.name, command.params);
        Answer::Now(Reply::with_result("{\"lit\":true}"))
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut words = std::env::args().skip(1);
    let (url, name) = (words.next().ok_or("URL DEVICE [TOKEN]")?, words.next().ok_or("URL DEVICE [TOKEN]")?);
    let mut options = Options::new(&url, &name)?;
    options.token = words.next().map_or(TokenSource::None, |token| TokenSource::Fixed(token.into()));
    options.tls = if options.is_tls() { Some(device::trusting(None)?) } else { None };
    let lamp = device::start(options, Box::new(Lamp));
    for brightness in (0..100).cycle() {
        lamp.update(Update::now("brightness", brightness.to_string()))?;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    Ok(())
}

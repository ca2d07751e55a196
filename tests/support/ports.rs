//! Ports for servers that a test starts.

use std::fs::File;
use std::net::TcpListener;
use std::ops::Range;
use std::path::Path;

/// Below what Linux gives to outgoing connections (32768 and up), so that no connection of another test can take a port
/// between its choice and its use, nor while a server on it restarts.
const RANGE: Range<u16> = 10_000..32_000;

/// A port of 127.0.0.1 on which nothing listens.
pub fn free() -> u16 {
    std::iter::repeat_with(|| fastrand::u16(RANGE))
        .take(1_000)
        .find(|port| is_ours(*port) && TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("no free port from 10000 to 31999")
}

/// Test programs run beside each other: what one chose no other gets, although nothing listens there yet. `tests/run` gives
/// them a folder to say so.
fn is_ours(port: u16) -> bool {
    let Some(chosen) = std::env::var_os("TIDEGATE_TEST_PORTS") else { return true };
    File::create_new(Path::new(&chosen).join(port.to_string())).is_ok()
}

//! The public port: accepting, and what every accepted socket is set to.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

const BACKLOG: u32 = 4_096;
/// A peer that is gone is found after these, also where its socket is not being read.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;
const USER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long accepting rests where the process has no descriptor or memory left for one more.
const BACK_OFF: Duration = Duration::from_millis(100);

/// Binds an address, so that a node that restarts gets its port back at once.
///
/// # Errors
/// The system's reason.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Accepts for ever and hands each socket on, with a place among `places`, which it gives back when it is through with
/// TLS and HTTP. Where there is none, connections wait in the listen queue.
pub async fn accept(
    listener: TcpListener,
    places: Arc<Semaphore>,
    mut each: impl FnMut(TcpStream, SocketAddr, OwnedSemaphorePermit),
) {
    loop {
        // Nobody closes this semaphore.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, peer)) => match prepare(&stream) {
                Ok(()) => each(stream, peer, place),
                Err(error) => tracing::debug!(%error, %peer, "a connection ended as it was accepted"),
            },
            Err(error) if is_about_one(&error) => {}
            // Out of descriptors: those that are open go on, and accepting at once again would only spin.
            Err(error) => {
                tracing::warn!(%error, "no connection can be accepted now; is the limit of open files too low?");
                tokio::time::sleep(BACK_OFF).await;
            }
        }
    }
}

/// Whether the error is that of the one connection which was to be accepted.
fn is_about_one(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let keepalive =
        TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL).with_retries(KEEPALIVE_PROBES);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_accepted_socket_delays_nothing_and_finds_a_dead_peer() {
        let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        prepare(&stream).unwrap();
        let socket = SockRef::from(&stream);
        assert!(stream.nodelay().unwrap() && socket.keepalive().unwrap());
        #[cfg(target_os = "linux")]
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(USER_TIMEOUT));
    }
}

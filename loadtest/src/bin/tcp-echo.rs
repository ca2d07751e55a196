//! One round trip over loopback and nothing else: a thread for each connection, blocking reads, an answer of one length to each
//! request of another. A baseline for the way of a command.
//!
//! `tcp-echo ADDRESS REQUEST_BYTES ANSWER_BYTES`

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, request, answer] = arguments.as_slice() else {
        return Err(io::Error::other("usage: tcp-echo ADDRESS REQUEST_BYTES ANSWER_BYTES"));
    };
    let bytes = |word: &str| word.parse::<usize>().map_err(io::Error::other);
    let (request, answer) = (bytes(request)?, bytes(answer)?);
    for stream in TcpListener::bind(address)?.incoming() {
        let stream = stream?;
        thread::spawn(move || serve(stream, vec![0; request], &vec![b'a'; answer]));
    }
    Ok(())
}

fn serve(mut stream: TcpStream, mut request: Vec<u8>, answer: &[u8]) -> io::Result<()> {
    stream.set_nodelay(true)?;
    loop {
        stream.read_exact(&mut request)?;
        stream.write_all(answer)?;
    }
}

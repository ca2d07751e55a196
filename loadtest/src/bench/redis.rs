//! As much of Redis' protocol as it takes to ask a few questions.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::BenchError;

/// No answer within this is a failure.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A connection.
pub(super) struct Redis {
    stream: BufReader<TcpStream>,
}

impl Redis {
    /// Connects to `redis://host:port`.
    pub(super) fn connect(url: &str) -> Result<Self, BenchError> {
        let host = url.strip_prefix("redis://").unwrap_or(url).trim_end_matches('/');
        let stream = TcpStream::connect(host).map_err(BenchError::io(format!("connecting to Redis at {host}")))?;
        stream.set_read_timeout(Some(TIMEOUT)).map_err(BenchError::io("a Redis connection"))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Sends a command of plain words and gives its answer: a text or a number.
    pub(super) fn ask(&mut self, command: &str) -> Result<String, BenchError> {
        self.talk(command).map_err(BenchError::io(format!("asking Redis {command}")))
    }

    fn talk(&mut self, command: &str) -> std::io::Result<String> {
        self.stream.get_mut().write_all(format!("{command}\r\n").as_bytes())?;
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let line = line.trim_end();
        match (line.get(..1), line.get(1..)) {
            (Some("+" | ":"), Some(rest)) => Ok(rest.to_owned()),
            (Some("$"), Some(length)) => {
                let length: usize = length.parse().map_err(std::io::Error::other)?;
                let mut text = vec![0; length + 2];
                self.stream.read_exact(&mut text)?;
                text.truncate(length);
                Ok(String::from_utf8_lossy(&text).into_owned())
            }
            _ => Err(std::io::Error::other(format!("Redis said {line:?}"))),
        }
    }

    /// Forgets everything.
    pub(super) fn flush(&mut self) -> Result<(), BenchError> {
        self.ask("FLUSHALL").map(|_| ())
    }

    /// How many keys there are.
    pub(super) fn keys(&mut self) -> Result<usize, BenchError> {
        self.ask("DBSIZE")?.parse().map_err(BenchError::failed)
    }

    /// Commands executed since it started, those of scripts too, but for `INFO` itself.
    pub(super) fn commands(&mut self) -> Result<u64, BenchError> {
        Ok(calls(&self.ask("INFO commandstats")?))
    }
}

/// The sum over lines as `cmdstat_get:calls=21,usec=175,…`.
fn calls(stats: &str) -> u64 {
    let lines = stats.lines().filter_map(|line| line.strip_prefix("cmdstat_")?.split_once(":calls="));
    let counted = lines.filter(|(name, _)| *name != "info");
    counted.filter_map(|(_, rest)| rest.split(',').next()?.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_summed_without_the_question_itself() {
        let stats = "# Commandstats\r\ncmdstat_get:calls=21,usec=175\r\ncmdstat_info:calls=3,usec=1\r\n\
                     cmdstat_config|get:calls=2,usec=9\r\n";
        assert_eq!(calls(stats), 23);
    }
}

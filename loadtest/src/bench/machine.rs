//! Where and how a run was made: what has to stand beside its figures.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

/// Where and how a run was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// The processor's name.
    pub processor: String,
    /// How many cores there are.
    pub cores: usize,
    /// GiB of memory.
    pub memory_gib: u64,
    /// The kernel's version.
    pub kernel: String,
    /// The day, as 2026-01-31, UTC.
    pub day: String,
    /// How the run was started.
    pub command: String,
    /// What else one has to know, such as that the machine was busy.
    pub remarks: Vec<String>,
}

impl Machine {
    /// This one, now.
    pub fn here(command: String) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let processors = read("/proc/cpuinfo");
        let field = |line: &str| line.split_once(':').map(|(_, value)| value.trim().to_owned());
        let processor = processors.lines().find(|line| line.starts_with("model name")).and_then(field);
        let memory = read("/proc/meminfo");
        let kib = memory.split_whitespace().nth(1).and_then(|word| word.parse::<u64>().ok()).unwrap_or_default();
        Self {
            processor: processor.unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            cores: processors.lines().filter(|line| line.starts_with("processor")).count().max(1),
            memory_gib: (kib as f64 / f64::from(1 << 20)).round() as u64,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            day: day(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()),
            command,
            remarks: Vec::new(),
        }
    }

    /// In a line.
    pub fn text(&self) -> String {
        let cores = if self.cores == 1 { "core" } else { "cores" };
        format!("{}, {} {cores}, {} GiB, Linux {}", self.processor, self.cores, self.memory_gib, self.kernel)
    }
}

/// The day as 2026-01-31: the telemetry's updates have it too.
fn day(unix_s: u64) -> String {
    let mut device = crate::telemetry::Telemetry::new(0, unix_s * 1_000);
    let update: serde_json::Value =
        serde_json::from_slice(device.update(crate::telemetry::FIRST_SEQ, unix_s * 1_000)).unwrap_or_default();
    update["timestamp"].as_str().and_then(|moment| moment.get(..10)).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_says_what_it_is_and_which_day_it_was() {
        let here = Machine::here("make bench".to_owned());
        assert!(here.cores >= 1 && !here.kernel.is_empty() && here.memory_gib >= 1, "{here:?}");
        assert!(here.text().contains(&format!("Linux {}", here.kernel)));
        assert_eq!(day(951_782_400), "2000-02-29");
    }
}

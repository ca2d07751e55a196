//! (to come) Placeholder of the development node, so that the command line compiles before it is merged.

/// What `tidegate dev` is told.
#[derive(Debug, Clone)]
pub struct DevOptions {
    /// Address and port.
    pub listen: std::net::SocketAddr,
    /// Listen for the whole network, with tokens.
    pub lan: bool,
    /// Simulated devices.
    pub devices: usize,
    /// Nodes in the process.
    pub nodes: usize,
    /// First line of output is one JSON object.
    pub json: bool,
    /// Brokers of a real Kafka in place of the log in memory.
    pub kafka: Option<String>,
    /// Goes before every topic's name.
    pub topic_prefix: String,
}

/// Runs until it is told to stop.
pub fn run(_options: DevOptions) -> std::process::ExitCode {
    std::process::ExitCode::FAILURE
}

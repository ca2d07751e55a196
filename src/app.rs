//! (to come) Placeholder of the composition root, so that the command line compiles before it is merged.

/// Serves until the node is told to leave.
pub fn serve(_config: crate::config::Config) -> std::process::ExitCode {
    std::process::ExitCode::FAILURE
}

//! The edge: TCP, TLS, admission, the HTTP upgrade, and frames. The only place that knows fastwebsockets.

pub mod client;
pub mod decoder;
pub mod deflate;
pub mod encoder;
pub mod head;
pub mod listener;
pub mod tls;
pub mod upgrade;

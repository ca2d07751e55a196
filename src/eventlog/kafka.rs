//! (to come) Placeholder of the section `kafka`, so that the configuration compiles before the event log is merged.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The section `kafka`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct KafkaConfig {
    /// Brokers to begin with, `host:port` joined by commas.
    pub brokers: String,
    /// Goes before every topic's name.
    pub topic_prefix: String,
    /// The password, with SASL.
    pub password: String,
    /// Handed to librdkafka as it is.
    pub properties: BTreeMap<String, String>,
}

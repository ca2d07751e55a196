//! The names of keys. What belongs to a device shares one hash tag, so that a script about it needs one slot.

use crate::id::DeviceKey;

/// `tg:{tenant/device}:<name>`: a key in the device's own slot. Ids hold neither braces nor slashes nor colons, so no two
/// devices share one.
pub fn device(device: &DeviceKey, name: &str) -> String {
    format!("tg:{{{device}}}:{name}")
}

/// `{tg}:<name>`: a key of the whole cluster, all of them in one slot.
pub fn cluster(name: &str) -> String {
    format!("{{tg}}:{name}")
}

/// `tg:{node,incarnation}:<name>`: a key of one life of one node.
pub fn node(node: &str, incarnation: &str, name: &str) -> String {
    format!("tg:{{{node},{incarnation}}}:{name}")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_spelt_as_the_design_says() {
        let key = DeviceKey::new("acme", "sensor-001").unwrap();
        assert_eq!(device(&key, "own"), "tg:{acme/sensor-001}:own");
        assert_eq!(cluster("nodes"), "{tg}:nodes");
        assert_eq!(node("gw-1", "00ff", "held"), "tg:{gw-1,00ff}:held");
    }
}

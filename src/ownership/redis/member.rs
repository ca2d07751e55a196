//! A member of `{tg}:nodes` as text: `node,incarnation,address,state,version,sees-kafka,devices`. The scripts read the first four.

use crate::id::{Incarnation, NodeName};
use crate::ownership::{NodeLife, NodeState, Profile};

const STATES: [NodeState; 5] =
    [NodeState::Starting, NodeState::Ready, NodeState::Draining, NodeState::Dead, NodeState::Gone];

pub(super) fn encode(profile: &Profile) -> String {
    let plain = |text: &str| text.replace([',', '\n'], "_");
    let (state, kafka) = (profile.state.as_str(), u8::from(profile.sees_kafka));
    let mut text = format!("{},{},{state},{},{kafka}", profile.life, plain(&profile.address), plain(&profile.version));
    if let Some(devices) = profile.devices {
        text.push_str(&format!(",{devices}"));
    }
    text
}

/// Nothing for what is no member; what later versions append is passed over.
pub(super) fn decode(text: &str) -> Option<Profile> {
    let mut parts = text.split(',');
    let mut next = || parts.next();
    let node = NodeName::new(next()?).ok()?;
    let life = NodeLife { node, incarnation: Incarnation::parse(next()?)? };
    let address = next()?.to_owned();
    let state = next()?;
    let state = STATES.into_iter().find(|known| known.as_str() == state)?;
    let version = next()?.to_owned();
    let sees_kafka = next()? == "1";
    // A node of an earlier version does not say.
    let devices = next().and_then(|devices| devices.parse().ok());
    Some(Profile { life, address, state, version, sees_kafka, devices })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_read_as_it_is_written_and_what_comes_behind_is_passed_over() {
        let mut profile = Profile {
            life: NodeLife::begin(NodeName::new("gw-1").unwrap()),
            address: "[::1]:7443".into(),
            state: NodeState::Draining,
            version: "0.1.0+x,y".into(),
            sees_kafka: true,
            devices: Some(12_345),
        };
        let text = encode(&profile);
        profile.version = "0.1.0+x_y".into();
        assert_eq!(decode(&text), Some(profile.clone()));
        assert_eq!(decode(&format!("{text},more,things")), Some(profile.clone()));
        profile.devices = None;
        assert_eq!(decode(&encode(&profile)), Some(profile.clone()), "as versions before wrote it");
        assert_eq!(decode(&format!("{},what,ever", encode(&profile))), Some(profile));
        for wrong in ["", "gw-1", "gw-1,12,a,ready,v,1", "gw 1,,a,ready,v,1"] {
            assert_eq!(decode(wrong), None, "{wrong}");
        }
    }
}

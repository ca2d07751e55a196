//! The messages of `peer.proto`, written out: with five calls the build needs no generator for them.

use tonic::Status;

use super::{Ending, Traced};
use crate::id::{CommandId, DeviceKey, Epoch, IdError, Incarnation, NodeName};
use crate::ownership::NodeLife;

pub(super) const RING: &str = "/tidegate.peer.v1.Peer/Ring";
pub(super) const EVICT: &str = "/tidegate.peer.v1.Peer/Evict";
pub(super) const ENDED: &str = "/tidegate.peer.v1.Peer/Ended";
pub(super) const SWEEP: &str = "/tidegate.peer.v1.Peer/Sweep";
pub(super) const TRACE: &str = "/tidegate.peer.v1.Peer/Trace";

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Life {
    #[prost(string, tag = "1")]
    pub(super) node: String,
    #[prost(string, tag = "2")]
    pub(super) incarnation: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct DeviceCall {
    #[prost(message, optional, tag = "1")]
    pub(super) to: Option<Life>,
    #[prost(string, tag = "2")]
    pub(super) tenant: String,
    #[prost(string, tag = "3")]
    pub(super) device: String,
    #[prost(fixed64, tag = "4")]
    pub(super) epoch: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct DeviceAnswer {
    #[prost(bool, tag = "1")]
    pub(super) done: bool,
    #[prost(fixed64, optional, tag = "2")]
    pub(super) known: Option<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct EndingCall {
    #[prost(message, optional, tag = "1")]
    pub(super) to: Option<Life>,
    #[prost(string, tag = "2")]
    pub(super) tenant: String,
    #[prost(string, tag = "3")]
    pub(super) device: String,
    #[prost(string, tag = "4")]
    pub(super) command: String,
    #[prost(uint32, tag = "5")]
    pub(super) version: u32,
    #[prost(bytes = "vec", tag = "7")]
    pub(super) detail: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SweepCall {
    #[prost(message, optional, tag = "1")]
    pub(super) to: Option<Life>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct TraceCall {
    #[prost(message, optional, tag = "1")]
    pub(super) to: Option<Life>,
    #[prost(string, tag = "2")]
    pub(super) tenant: String,
    #[prost(string, tag = "3")]
    pub(super) device: String,
    #[prost(fixed64, tag = "4")]
    pub(super) epoch: u64,
    #[prost(uint32, tag = "5")]
    pub(super) for_s: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct TraceAnswer {
    #[prost(bool, tag = "1")]
    pub(super) done: bool,
    #[prost(fixed64, optional, tag = "2")]
    pub(super) known: Option<u64>,
    #[prost(bool, tag = "3")]
    pub(super) full: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Done {}

/// A call that names whom it is for.
pub(super) trait Addressed {
    fn to(&self) -> Option<&Life>;
}

impl Addressed for DeviceCall {
    fn to(&self) -> Option<&Life> {
        self.to.as_ref()
    }
}

impl Addressed for EndingCall {
    fn to(&self) -> Option<&Life> {
        self.to.as_ref()
    }
}

impl Addressed for SweepCall {
    fn to(&self) -> Option<&Life> {
        self.to.as_ref()
    }
}

impl Addressed for TraceCall {
    fn to(&self) -> Option<&Life> {
        self.to.as_ref()
    }
}

impl From<&NodeLife> for Life {
    fn from(life: &NodeLife) -> Self {
        Self { node: life.node.to_string(), incarnation: life.incarnation.to_string() }
    }
}

impl Life {
    pub(super) fn read(&self) -> Option<NodeLife> {
        let node = NodeName::new(&self.node).ok()?;
        Some(NodeLife { node, incarnation: Incarnation::parse(&self.incarnation)? })
    }
}

impl DeviceCall {
    pub(super) fn new(to: &NodeLife, device: &DeviceKey, epoch: Epoch) -> Self {
        let (tenant, name) = (device.tenant().to_owned(), device.device().to_owned());
        Self { to: Some(to.into()), tenant, device: name, epoch: epoch.0 }
    }

    pub(super) fn read(&self) -> Result<(DeviceKey, Epoch), Status> {
        let device = DeviceKey::new(&self.tenant, &self.device).map_err(malformed)?;
        Ok((device, Epoch(self.epoch)))
    }
}

impl EndingCall {
    pub(super) fn new(to: &NodeLife, ending: &Ending) -> Self {
        Self {
            to: Some(to.into()),
            tenant: ending.device.tenant().to_owned(),
            device: ending.device.device().to_owned(),
            command: ending.command.to_string(),
            version: ending.version,
            detail: ending.detail.clone(),
        }
    }

    pub(super) fn read(self) -> Result<Ending, Status> {
        Ok(Ending {
            device: DeviceKey::new(&self.tenant, &self.device).map_err(malformed)?,
            command: CommandId::parse(&self.command).map_err(malformed)?,
            version: self.version,
            detail: self.detail,
        })
    }
}

impl TraceCall {
    pub(super) fn new(to: &NodeLife, device: &DeviceKey, epoch: Epoch, for_s: u32) -> Self {
        let (tenant, name) = (device.tenant().to_owned(), device.device().to_owned());
        Self { to: Some(to.into()), tenant, device: name, epoch: epoch.0, for_s }
    }

    pub(super) fn read(&self) -> Result<(DeviceKey, Epoch, u32), Status> {
        let device = DeviceKey::new(&self.tenant, &self.device).map_err(malformed)?;
        Ok((device, Epoch(self.epoch), self.for_s))
    }
}

impl From<Traced> for TraceAnswer {
    fn from(traced: Traced) -> Self {
        let none = Self { done: false, known: None, full: false };
        match traced {
            Traced::Begun => Self { done: true, ..none },
            Traced::NotHere { known } => Self { known: known.map(|epoch| epoch.0), ..none },
            Traced::Full => Self { full: true, ..none },
        }
    }
}

impl From<TraceAnswer> for Traced {
    fn from(answer: TraceAnswer) -> Self {
        match answer {
            TraceAnswer { done: true, .. } => Self::Begun,
            TraceAnswer { full: true, .. } => Self::Full,
            TraceAnswer { known, .. } => Self::NotHere { known: known.map(Epoch) },
        }
    }
}

fn malformed(error: IdError) -> Status {
    Status::invalid_argument(error.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use prost::Message;
    use prost_reflect::{DescriptorPool, DynamicMessage};

    use super::*;

    /// Reads what Rust wrote by the `.proto` alone, and gives it as text.
    fn by_proto(name: &str, message: &impl Message) -> String {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/src/peer");
        let files = protox::compile(["peer.proto"], [directory]).unwrap();
        let pool = DescriptorPool::from_file_descriptor_set(files).unwrap();
        let kind = pool.get_message_by_name(&format!("tidegate.peer.v1.{name}")).unwrap();
        let read = DynamicMessage::decode(kind, message.encode_to_vec().as_slice()).unwrap();
        assert_eq!(read.unknown_fields().count(), 0);
        read.to_string()
    }

    #[test]
    fn the_messages_are_those_of_the_proto() {
        let to = Some(Life { node: "gw-1".into(), incarnation: "0f".into() });
        let life = r#"to{node:"gw-1",incarnation:"0f"}"#;
        let call = DeviceCall { to: to.clone(), tenant: "t".into(), device: "d".into(), epoch: 7 };
        assert_eq!(by_proto("DeviceCall", &call), format!(r#"{life},tenant:"t",device:"d",epoch:7"#));
        let answer = DeviceAnswer { done: true, known: Some(0) };
        assert_eq!(by_proto("DeviceAnswer", &answer), "done:true,known:0");
        let ending = EndingCall {
            to: to.clone(),
            tenant: "t".into(),
            device: "d".into(),
            command: "c".into(),
            version: 3,
            detail: b"{}".to_vec(),
        };
        let rest = r#"tenant:"t",device:"d",command:"c",version:3,detail:"{}""#;
        assert_eq!(by_proto("Ending", &ending), format!("{life},{rest}"));
        assert_eq!(by_proto("SweepCall", &SweepCall { to: to.clone() }), life);
        let trace = TraceCall { to, tenant: "t".into(), device: "d".into(), epoch: 7, for_s: 60 };
        assert_eq!(by_proto("TraceCall", &trace), format!(r#"{life},tenant:"t",device:"d",epoch:7,for_s:60"#));
        let answer = TraceAnswer { done: true, known: Some(0), full: true };
        assert_eq!(by_proto("TraceAnswer", &answer), "done:true,known:0,full:true");
        assert_eq!(by_proto("Done", &Done {}), "");
    }

    #[test]
    fn the_word_of_a_state_as_earlier_versions_send_it_is_passed_over() {
        let ending = EndingCall { command: "c".into(), version: 3, detail: b"{}".to_vec(), ..EndingCall::default() };
        let older = [ending.encode_to_vec(), b"\x32\x06failed".to_vec()].concat();
        assert_eq!(EndingCall::decode(older.as_slice()).unwrap(), ending);
    }

    #[test]
    fn the_calls_are_those_of_the_proto() {
        let files = protox::compile(["peer.proto"], [concat!(env!("CARGO_MANIFEST_DIR"), "/src/peer")]).unwrap();
        let pool = DescriptorPool::from_file_descriptor_set(files).unwrap();
        let service = pool.get_service_by_name("tidegate.peer.v1.Peer").unwrap();
        let paths: Vec<_> = service.methods().map(|m| format!("/{}/{}", service.full_name(), m.name())).collect();
        assert_eq!(paths, [RING, EVICT, ENDED, SWEEP, TRACE]);
    }
}

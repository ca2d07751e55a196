//! The message of `docs/protocol/tidegate.proto`, as prost reads it. A field's number is its CBOR key and one.
#![allow(unreachable_pub)] // what prost derives is `pub`

/// `Message`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Message {
    #[prost(string, optional, tag = "1")]
    pub(crate) r#type: Option<String>,
    #[prost(string, optional, tag = "2")]
    pub(crate) device_id: Option<String>,
    #[prost(uint64, optional, tag = "3")]
    pub(crate) seq: Option<u64>,
    #[prost(string, optional, tag = "4")]
    pub(crate) id: Option<String>,
    #[prost(string, optional, tag = "5")]
    pub(crate) name: Option<String>,
    #[prost(message, optional, tag = "6")]
    pub(crate) value: Option<Value>,
    #[prost(int64, optional, tag = "7")]
    pub(crate) timestamp: Option<i64>,
    #[prost(string, optional, tag = "8")]
    pub(crate) status: Option<String>,
    #[prost(message, optional, tag = "9")]
    pub(crate) result: Option<Value>,
    #[prost(string, optional, tag = "10")]
    pub(crate) code: Option<String>,
    #[prost(string, optional, tag = "11")]
    pub(crate) message: Option<String>,
    #[prost(message, optional, tag = "12")]
    pub(crate) params: Option<Value>,
    #[prost(int64, optional, tag = "13")]
    pub(crate) expires_at: Option<i64>,
    #[prost(uint64, optional, tag = "14")]
    pub(crate) attempt: Option<u64>,
    #[prost(uint64, optional, tag = "15")]
    pub(crate) retry_after_ms: Option<u64>,
    #[prost(string, optional, tag = "16")]
    pub(crate) token: Option<String>,
    #[prost(string, optional, tag = "17")]
    pub(crate) traceparent: Option<String>,
    #[prost(string, optional, tag = "18")]
    pub(crate) reason: Option<String>,
    #[prost(uint64, optional, tag = "19")]
    pub(crate) deadline_ms: Option<u64>,
    #[prost(string, optional, tag = "20")]
    pub(crate) session: Option<String>,
    #[prost(uint64, optional, tag = "21")]
    pub(crate) epoch: Option<u64>,
    #[prost(uint64, optional, tag = "22")]
    pub(crate) heartbeat_s: Option<u64>,
    #[prost(uint64, optional, tag = "23")]
    pub(crate) max_message_bytes: Option<u64>,
    #[prost(uint64, optional, tag = "24")]
    pub(crate) window: Option<u64>,
    #[prost(int64, optional, tag = "25")]
    pub(crate) server_time: Option<i64>,
    #[prost(int64, optional, tag = "26")]
    pub(crate) token_expires_at: Option<i64>,
    #[prost(uint64, optional, tag = "27")]
    pub(crate) resume_after: Option<u64>,
    #[prost(bool, optional, tag = "28")]
    pub(crate) registered: Option<bool>,
    #[prost(string, optional, tag = "29")]
    pub(crate) key: Option<String>,
    #[prost(uint64, optional, tag = "30")]
    pub(crate) ttl_s: Option<u64>,
    #[prost(uint64, optional, tag = "31")]
    pub(crate) max_attempts: Option<u64>,
    #[prost(bool, optional, tag = "32")]
    pub(crate) replace: Option<bool>,
    #[prost(string, optional, tag = "33")]
    pub(crate) state: Option<String>,
    #[prost(uint64, optional, tag = "34")]
    pub(crate) version: Option<u64>,
}

/// `Value`: any JSON value.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Value {
    #[prost(oneof = "Kind", tags = "1, 2, 3, 4, 5, 6")]
    pub(crate) kind: Option<Kind>,
}

/// The kinds of a `Value`.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum Kind {
    #[prost(int64, tag = "1")]
    Int(i64),
    #[prost(double, tag = "2")]
    Double(f64),
    #[prost(bool, tag = "3")]
    Bool(bool),
    #[prost(string, tag = "4")]
    String(String),
    #[prost(bytes = "vec", tag = "5")]
    Bytes(Vec<u8>),
    #[prost(string, tag = "6")]
    Json(String),
}

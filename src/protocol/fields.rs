//! The fields of a message: one table of names and numbers for all encodings, and what each gateway message holds.

use super::message::{CommandState, GatewayMessage, Welcome};

macro_rules! fields {
    ($($name:ident = $text:literal),+ $(,)?) => {
        /// A field of a message, in the order of its CBOR key.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Field { $(#[doc = concat!("`", $text, "`.")] $name,)+ }

        impl Field {
            /// Every field; a field's place is its CBOR key.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The key in JSON, the text key in CBOR and the field's name in Protobuf.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }
        }
    };
}

fields! {
    Type = "type", DeviceId = "device_id", Seq = "seq", Id = "id", Name = "name", Value = "value",
    Timestamp = "timestamp", Status = "status", Result = "result", Code = "code", Message = "message",
    Params = "params", ExpiresAt = "expires_at", Attempt = "attempt", RetryAfterMs = "retry_after_ms",
    Token = "token", Traceparent = "traceparent", Reason = "reason", DeadlineMs = "deadline_ms",
    Session = "session", Epoch = "epoch", HeartbeatS = "heartbeat_s", MaxMessageBytes = "max_message_bytes",
    Window = "window", ServerTime = "server_time", TokenExpiresAt = "token_expires_at",
    ResumeAfter = "resume_after", Registered = "registered", Key = "key", TtlS = "ttl_s",
    MaxAttempts = "max_attempts", Replace = "replace", State = "state", Version = "version",
}

impl Field {
    /// The integer a CBOR device may write in place of the name.
    pub const fn cbor_key(self) -> u8 {
        self as u8
    }

    /// The field's number in Protobuf.
    pub const fn protobuf_number(self) -> u32 {
        self as u32 + 1
    }

    /// The field a CBOR key stands for.
    pub(super) fn from_cbor_key(key: i128) -> Option<Self> {
        usize::try_from(key).ok().and_then(|place| Self::ALL.get(place)).copied()
    }
}

/// What a field of a gateway message holds.
#[derive(Debug, Clone, Copy)]
pub(super) enum Held<'a> {
    /// Text.
    Text(&'a str),
    /// A count or a duration.
    Unsigned(u64),
    /// A time.
    Signed(i64),
    /// Yes or no.
    Flag(bool),
    /// One JSON value.
    Json(&'a str),
}

/// Hands each field that is present to `put`, `type` first.
pub(super) fn each<'a>(message: &'a GatewayMessage<'a>, put: &mut dyn FnMut(Field, Held<'a>)) {
    use Held::{Json, Signed, Text, Unsigned};
    match message {
        GatewayMessage::Welcome(welcome) => each_of_welcome(welcome, put),
        GatewayMessage::Ack { seq } => {
            put(Field::Type, Text("ack"));
            put(Field::Seq, Unsigned(*seq));
        }
        GatewayMessage::AuthAck { id, expires_at } => {
            put(Field::Type, Text("ack"));
            put_text(Field::Id, id.as_deref(), put);
            put(Field::ExpiresAt, Signed(*expires_at));
        }
        GatewayMessage::Refused { seq, id, code, message } => {
            put(Field::Type, Text("refused"));
            put_unsigned(Field::Seq, *seq, put);
            put_text(Field::Id, id.as_deref(), put);
            put(Field::Code, Text(code.as_str()));
            put(Field::Message, Text(message));
        }
        GatewayMessage::Pause { reason, retry_after_ms } => {
            put(Field::Type, Text("pause"));
            put(Field::Reason, Text(reason.as_str()));
            put_unsigned(Field::RetryAfterMs, *retry_after_ms, put);
        }
        GatewayMessage::Resume { reason } => {
            put(Field::Type, Text("resume"));
            put(Field::Reason, Text(reason.as_str()));
        }
        GatewayMessage::Command { id, name, params, expires_at, attempt } => {
            put(Field::Type, Text("command"));
            put(Field::Id, Text(id));
            put(Field::Name, Text(name));
            put(Field::Params, Json(params));
            put(Field::ExpiresAt, Signed(*expires_at));
            put(Field::Attempt, Unsigned(u64::from(*attempt)));
        }
        GatewayMessage::CommandState(command) => each_of_state(command, put),
        GatewayMessage::AuthDue { token_expires_at } => {
            put(Field::Type, Text("auth_due"));
            put(Field::TokenExpiresAt, Signed(*token_expires_at));
        }
        GatewayMessage::Goaway { reason, retry_after_ms, deadline_ms } => {
            put(Field::Type, Text("goaway"));
            put(Field::Reason, Text(reason));
            put(Field::RetryAfterMs, Unsigned(*retry_after_ms));
            put(Field::DeadlineMs, Unsigned(*deadline_ms));
        }
        GatewayMessage::Error { code, message, retry_after_ms } => {
            put(Field::Type, Text("error"));
            put(Field::Code, Text(code));
            put(Field::Message, Text(message));
            put_unsigned(Field::RetryAfterMs, *retry_after_ms, put);
        }
        GatewayMessage::Pong { id, server_time } => {
            put(Field::Type, Text("pong"));
            put_text(Field::Id, id.as_deref(), put);
            put(Field::ServerTime, Signed(*server_time));
        }
    }
}

fn each_of_state<'a>(command: &'a CommandState<'a>, put: &mut dyn FnMut(Field, Held<'a>)) {
    put(Field::Type, Held::Text("command_state"));
    put_text(Field::Key, command.key.as_deref(), put);
    put(Field::Id, Held::Text(&command.id));
    put(Field::DeviceId, Held::Text(&command.device_id));
    put(Field::State, Held::Text(command.state));
    put(Field::Version, Held::Unsigned(u64::from(command.version)));
    put_text(Field::Reason, command.reason, put);
    if let Some(result) = &command.result {
        put(Field::Result, Held::Json(result));
    }
    put_text(Field::Message, command.message.as_deref(), put);
}

fn each_of_welcome<'a>(welcome: &Welcome<'a>, put: &mut dyn FnMut(Field, Held<'a>)) {
    use Held::{Flag, Signed, Text, Unsigned};
    put(Field::Type, Text("welcome"));
    put(Field::Message, Text(welcome.message));
    put(Field::DeviceId, Text(welcome.device_id));
    put(Field::Session, Text(welcome.session));
    put(Field::Epoch, Unsigned(welcome.epoch));
    put(Field::HeartbeatS, Unsigned(welcome.heartbeat_s));
    put(Field::MaxMessageBytes, Unsigned(welcome.max_message_bytes));
    put(Field::Window, Unsigned(welcome.window));
    put(Field::ServerTime, Signed(welcome.server_time));
    if let Some(at) = welcome.token_expires_at {
        put(Field::TokenExpiresAt, Signed(at));
    }
    put_unsigned(Field::ResumeAfter, welcome.resume_after, put);
    if let Some(registered) = welcome.registered {
        put(Field::Registered, Flag(registered));
    }
}

fn put_text<'a>(field: Field, text: Option<&'a str>, put: &mut dyn FnMut(Field, Held<'a>)) {
    if let Some(text) = text {
        put(field, Held::Text(text));
    }
}

fn put_unsigned<'a>(field: Field, number: Option<u64>, put: &mut dyn FnMut(Field, Held<'a>)) {
    if let Some(number) = number {
        put(field, Held::Unsigned(number));
    }
}

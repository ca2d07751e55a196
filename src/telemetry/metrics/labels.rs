//! The values a metric's labels can take: closed enums, so that no device, tenant or address can ever become a label
//! and the number of series is known when the program is compiled.

/// A closed set of label values.
pub trait Label: Copy + 'static {
    /// Every value, in the order of [`Label::index`].
    const ALL: &'static [Self];

    /// The label's value as Prometheus sees it.
    fn as_str(self) -> &'static str;

    /// This value's place in [`Label::ALL`].
    fn index(self) -> usize;
}

macro_rules! labels {
    ($($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ })+) => { $(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant,)+ }

        impl Label for $name {
            const ALL: &'static [Self] = &[$(Self::$variant,)+];

            fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            fn index(self) -> usize {
                self as usize
            }
        }
    )+ };
}

labels! {
    /// How far a connection is.
    ConnectionState {
        /// Upgraded, and working.
        Open = "open",
        /// A close was sent or is about to be.
        Closing = "closing",
    }

    /// Who is at the other end of a connection.
    PeerKind {
        /// A device.
        Device = "device",
        /// An application.
        App = "app",
    }

    /// What became of a span.
    SpanOutcome {
        /// A collector took it.
        Exported = "exported",
        /// Too many waited.
        Dropped = "dropped",
        /// The collector did not take it in time, or refused it.
        Lost = "lost",
    }

    /// What became of a record of the topic of commands.
    ReadOutcome {
        /// A command, or one that was taken before.
        Accepted = "accepted",
        /// It cannot be read, or breaks a bound.
        Malformed = "malformed",
        /// It is larger than a message may be, or than its device can take.
        TooLarge = "too_large",
        /// Its id was used for something else.
        Conflict = "conflict",
        /// The device's queue is full.
        QueueFull = "queue_full",
        /// Its time was over.
        Expired = "expired",
    }

    /// How a call to a peer ended.
    PeerOutcome {
        /// As it should.
        Ok = "ok",
        /// The device is not there under the epoch asked for.
        NotHere = "not_here",
        /// The node is not among the live ones.
        Gone = "gone",
        /// Another life of the node, or another node, answers at its address.
        OtherLife = "other_life",
        /// There is no connection.
        Unreachable = "unreachable",
        /// No answer in time.
        Deadline = "deadline",
        /// Too many calls are under way.
        Busy = "busy",
        /// Larger than the limit.
        TooLarge = "too_large",
        /// The node does not understand it.
        Refused = "refused",
    }

    /// How an attempt to connect ended.
    AttemptOutcome {
        /// 101: it is a connection now.
        Accepted = "accepted",
        /// The request was wrong (400, 405, 414, 421, 431, 505).
        BadRequest = "bad_request",
        /// 401: the token.
        Unauthorized = "unauthorized",
        /// 403: the scope or the origin.
        Forbidden = "forbidden",
        /// 404: no such path.
        NotFound = "not_found",
        /// 426: plain HTTP where a WebSocket is served.
        UpgradeRequired = "upgrade_required",
        /// 429: too many from there.
        RateLimited = "rate_limited",
        /// 503: the node is full, or its budget is.
        Overloaded = "overloaded",
        /// 503: the node is leaving.
        Draining = "draining",
        /// 503: the keys that would verify the token cannot be had.
        KeysUnavailable = "keys_unavailable",
        /// TLS failed.
        Tls = "tls",
        /// A malformed or missing PROXY header.
        Proxy = "proxy",
        /// TLS and the request's head did not come in time.
        Timeout = "timeout",
        /// The client left before it had an answer.
        Left = "left",
        /// A plain HTTP request that was served (health on the public port, the API).
        Http = "http",
        /// A fault of ours.
        Internal = "internal",
    }

    /// Who ended a connection.
    Initiator {
        /// The client: it sent a close or the end of its stream.
        Client = "client",
        /// The gateway.
        Gateway = "gateway",
        /// Nobody: the network reset it or it timed out.
        Network = "network",
    }

    /// Why a connection ended: the close codes of the protocol by name, and the ways without one.
    DisconnectReason {
        /// 1000.
        Normal = "normal",
        /// 1001.
        GoingAway = "going_away",
        /// 1002.
        ProtocolError = "protocol_error",
        /// 1003.
        UnsupportedData = "unsupported_data",
        /// 1007.
        InvalidUtf8 = "invalid_utf8",
        /// 1008.
        PolicyViolation = "policy_violation",
        /// 1009.
        TooBig = "too_big",
        /// 1011.
        InternalError = "internal_error",
        /// 1012.
        Restart = "restart",
        /// 1013.
        TryAgainLater = "try_again_later",
        /// 4000.
        HeartbeatLost = "heartbeat_lost",
        /// 4001.
        SlowConsumer = "slow_consumer",
        /// 4002.
        Moved = "moved",
        /// 4003.
        MaxAge = "max_age",
        /// 4100.
        Overloaded = "overloaded",
        /// 4101.
        OverQuota = "over_quota",
        /// 4201.
        TokenExpired = "token_expired",
        /// 4202.
        TokenRevoked = "token_revoked",
        /// 4203.
        IdentityChanged = "identity_changed",
        /// 4301.
        Superseded = "superseded",
        /// 4302.
        Blocked = "blocked",
        /// A close frame without a code (1005).
        NoCode = "no_code",
        /// The stream ended or broke without a close frame (1006).
        Lost = "lost",
        /// A code of the client's own.
        Other = "other",
    }

    /// What a client sends: messages by `type`, and the WebSocket's own frames.
    ReceivedType {
        /// `update` and `<name>_update`.
        Update = "update",
        /// `status`.
        Status = "status",
        /// `ack` about a command.
        Ack = "ack",
        /// `command` of an application.
        Command = "command",
        /// `auth`.
        Auth = "auth",
        /// `ping`.
        Ping = "ping",
        /// Not a message of the protocol.
        Invalid = "invalid",
        /// A WebSocket ping.
        WsPing = "ws_ping",
        /// A WebSocket pong.
        WsPong = "ws_pong",
        /// A WebSocket close.
        WsClose = "ws_close",
    }

    /// What the gateway sends: messages by `type`, and the WebSocket's own frames.
    SentType {
        /// `welcome`.
        Welcome = "welcome",
        /// `ack`.
        Ack = "ack",
        /// `refused`.
        Refused = "refused",
        /// `pause`.
        Pause = "pause",
        /// `resume`.
        Resume = "resume",
        /// `command`.
        Command = "command",
        /// `command_state`.
        CommandState = "command_state",
        /// `auth_due`.
        AuthDue = "auth_due",
        /// `goaway`.
        Goaway = "goaway",
        /// `error`.
        Error = "error",
        /// `pong`.
        Pong = "pong",
        /// A WebSocket ping.
        WsPing = "ws_ping",
        /// A WebSocket pong.
        WsPong = "ws_pong",
        /// A WebSocket close.
        WsClose = "ws_close",
    }

    /// Where a record goes.
    PublishTopic {
        /// Updates.
        Telemetry = "telemetry",
        /// Health reports and presence.
        Status = "status",
        /// What became of commands.
        CommandEvents = "command-events",
    }

    /// How a record ended.
    PublishOutcome {
        /// It is durable.
        Stored = "stored",
        /// The log will never take it.
        Refused = "refused",
    }

    /// Why a message was refused for good: the protocol's codes.
    RefusedCode {
        /// Not a message of this protocol.
        Malformed = "malformed",
        /// A `type` nobody knows.
        UnknownType = "unknown_type",
        /// Larger than the limit, or than the log takes.
        TooLarge = "too_large",
        /// Too many messages in a batch.
        TooMany = "too_many",
        /// Another device's, or not in the token's scope.
        Forbidden = "forbidden",
        /// Asked for too often.
        Rate = "rate",
        /// `auth` with a token that does not hold.
        InvalidToken = "invalid_token",
        /// A command's key was used for another.
        Conflict = "conflict",
        /// A command for now or never, and its device is not connected.
        NotConnected = "not_connected",
        /// A command that cannot be taken just now.
        Unavailable = "unavailable",
    }

    /// Why connections are told to hold their updates.
    PausedCode {
        /// The log is not taking records.
        Log = "log",
        /// The device sends more than its rate.
        Rate = "rate",
    }

    /// What is asked of the directory of owners.
    OwnershipOp {
        /// The node's lease, and who lives.
        Renew = "renew",
        /// A device that connects.
        Claim = "claim",
        /// A device that left.
        Release = "release",
        /// Where a device is.
        Lookup = "lookup",
        /// A row that Redis may have lost.
        Reassert = "reassert",
        /// Whether Redis lost something.
        Inspect = "inspect",
        /// The rows of a dead node.
        Settle = "settle",
    }

    /// How that ended.
    OwnershipOutcome {
        /// As it should.
        Ok = "ok",
        /// It was not granted: too many takeovers, a newer owner, a node that was declared dead.
        Denied = "denied",
        /// Redis was away or full; nothing was done.
        Unavailable = "unavailable",
        /// Redis did not answer; it may have been done.
        Unknown = "unknown",
        /// Redis would not, or answered what nobody understands.
        Error = "error",
    }

    /// What is probed all the time.
    ProbePath {
        /// One record to Kafka and its delivery report.
        Kafka = "kafka",
        /// The node's lease in Redis.
        Redis = "redis",
        /// A call to each live peer.
        Peer = "peer",
    }

    /// Which way a command went.
    CommandRoute {
        /// It was accepted and ended on one node.
        Local = "local",
        /// It was accepted on one node and ended on another.
        Peer = "peer",
        /// It was never sent.
        Queued = "queued",
    }

    /// How a command ended.
    CommandOutcome {
        /// The device did it.
        Succeeded = "succeeded",
        /// The device could not.
        Failed = "failed",
        /// The device would not.
        Rejected = "rejected",
        /// Every attempt was made, and nothing was heard.
        Undeliverable = "undeliverable",
        /// It was sent once or more, and whether the device did it is not known.
        Unknown = "outcome_unknown",
        /// Its time was over before it was ever sent.
        Unsent = "unsent",
        /// It was taken back, or replaced.
        Canceled = "canceled",
    }

    /// What became of a device's answer to a command.
    AnswerOutcome {
        /// It moved the command on.
        Changed = "changed",
        /// It, or more, was said before.
        Known = "known",
        /// The command had ended otherwise.
        Late = "late",
        /// The command was never sent: somebody guesses.
        NeverSent = "never_sent",
        /// There is no such command.
        Gone = "gone",
        /// The directory was away: the command comes again.
        Unavailable = "unavailable",
        /// Too many waited: the command comes again.
        Dropped = "dropped",
    }

    /// Why an event of a command will not be in the log.
    EventLoss {
        /// Too many changes waited to be looked at.
        Backlog = "backlog",
        /// Too many events waited for the log.
        Queue = "queue",
        /// The log refused it.
        Refused = "refused",
    }

    /// Why the node sent a connection away.
    ShedReason {
        /// The node leaves.
        Drain = "drain",
        /// The node alone lacks Kafka.
        CutOff = "cut_off",
        /// The node has more than its share of the devices.
        Rebalance = "rebalance",
        /// The connection is old.
        MaxAge = "max_age",
        /// The node holds too much that is not stored, or not written (4100).
        Overloaded = "overloaded",
    }

    /// Why a connection was not left the time it was told it has.
    CutShort {
        /// The drain's budget was used up.
        Budget = "budget",
        /// The node was told once more to leave.
        Signal = "signal",
    }

    /// How it stands with this node's share of the devices.
    RebalanceState {
        /// It is not configured.
        Off = "off",
        /// No other node is ready.
        Alone = "alone",
        /// It is not the time: a node drains, lacks Kafka, or does not say how many devices it has, or this one is not ready.
        Held = "held",
        /// This node has no more than its share.
        Balanced = "balanced",
        /// It has more, but not for long enough yet.
        Waiting = "waiting",
        /// It tells devices to move.
        Shedding = "shedding",
        /// It told enough of them, and waits for them to go.
        Resting = "resting",
    }

    /// What `/readyz` says, and why.
    Readiness {
        /// Not ready: it has just been started.
        Starting = "starting",
        /// Ready.
        Ready = "ready",
        /// Not ready: it alone lacks Kafka.
        CutOff = "cut_off",
        /// Not ready: for that reason it sends its devices to the others.
        SendingAway = "sending_away",
        /// Not ready: it leaves.
        Leaving = "leaving",
    }

    /// What somebody should look at who watches for attacks.
    SecurityEvent {
        /// A token that was not accepted.
        TokenRejected = "token_rejected",
        /// A message that names another device or tenant.
        ForeignIdentity = "foreign_identity",
        /// An answer to a command that was never sent.
        GuessedCommand = "guessed_command",
        /// An origin that is not allowed.
        OriginRejected = "origin_rejected",
        /// A connection ended for abuse (1008).
        Abuse = "abuse",
        /// A connection ended because its token's key is gone.
        TokenRevoked = "token_revoked",
    }
}

impl DisconnectReason {
    /// The reason behind a close code; codes of nobody's are `Other`, so that a client cannot make new series.
    pub const fn from_code(code: u16) -> Self {
        match code {
            1000 => Self::Normal,
            1001 => Self::GoingAway,
            1002 => Self::ProtocolError,
            1003 => Self::UnsupportedData,
            1005 => Self::NoCode,
            1006 => Self::Lost,
            1007 => Self::InvalidUtf8,
            1008 => Self::PolicyViolation,
            1009 => Self::TooBig,
            1011 => Self::InternalError,
            1012 => Self::Restart,
            1013 => Self::TryAgainLater,
            4000 => Self::HeartbeatLost,
            4001 => Self::SlowConsumer,
            4002 => Self::Moved,
            4003 => Self::MaxAge,
            4100 => Self::Overloaded,
            4101 => Self::OverQuota,
            4201 => Self::TokenExpired,
            4202 => Self::TokenRevoked,
            4203 => Self::IdentityChanged,
            4301 => Self::Superseded,
            4302 => Self::Blocked,
            _ => Self::Other,
        }
    }
}

//! Every way a connection ends, as one closed enum: code, reason, advice and metric label.

/// Why the gateway ends a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// 1002: the frames themselves are wrong.
    ProtocolError,
    /// 1003: the wrong kind of frame for the connection's encoding.
    UnsupportedData,
    /// 1007: text that is not UTF-8, or compressed data that is none.
    InvalidUtf8,
    /// 1008: abuse.
    PolicyViolation,
    /// 1009: a message above the limit.
    TooBig,
}

impl CloseReason {
    /// The close code.
    pub const fn code(self) -> u16 {
        match self {
            Self::ProtocolError => 1002,
            Self::UnsupportedData => 1003,
            Self::InvalidUtf8 => 1007,
            Self::PolicyViolation => 1008,
            Self::TooBig => 1009,
        }
    }
}

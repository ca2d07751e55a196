//! Every way a connection ends, as one closed enum: code, reason, advice and metric label; and the published back-off.

/// What a client should do after a close.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Advice {
    /// Do not come back by yourself: it was wanted, or something has to be changed first.
    Never,
    /// Reconnect after [`backoff_ms`].
    BackOff,
    /// Reconnect now, with jitter; not where a newer connection is already open.
    Reconnect,
    /// Reconnect after the hint in `goaway` or `error`, with full jitter.
    ReconnectAfterHint,
    /// Get a fresh token, then reconnect.
    TokenFirst,
    /// Reconnect once, after a minute and full jitter.
    OnceAfterAMinute,
}

macro_rules! close_reasons {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal, $advice:ident;)+) => {
        /// Why a connection ends.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum CloseReason { $($(#[$doc])* $name,)+ }

        impl CloseReason {
            /// Every reason, by rising code.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The code in the close frame.
            pub const fn code(self) -> u16 {
                match self { $(Self::$name => $code,)+ }
            }

            /// The reason in the close frame, in `goaway` and in `error`: one word.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// What the client should do.
            pub const fn advice(self) -> Advice {
                match self { $(Self::$name => Advice::$advice,)+ }
            }
        }
    };
}

close_reasons! {
    /// The client is done, or was let go without a fault.
    Normal = 1000, "normal", Never;
    /// The node is going away.
    GoingAway = 1001, "going_away", BackOff;
    /// The peer broke the framing.
    ProtocolError = 1002, "protocol_error", Never;
    /// The wrong kind of frame for the encoding.
    UnsupportedData = 1003, "unsupported_data", Never;
    /// A text message that is not UTF-8.
    InvalidPayload = 1007, "invalid_payload", Never;
    /// Abuse: control-frame floods, endless fragments, too many refused messages.
    PolicyViolation = 1008, "policy_violation", Never;
    /// A message above the size limit.
    TooBig = 1009, "too_big", Never;
    /// The gateway failed.
    InternalError = 1011, "internal_error", BackOff;
    /// The node restarts.
    Restart = 1012, "restart", ReconnectAfterHint;
    /// Not now.
    TryAgainLater = 1013, "try_again_later", ReconnectAfterHint;
    /// Two heartbeats were missed.
    HeartbeatLost = 4000, "heartbeat_lost", Reconnect;
    /// The client does not read what is sent to it.
    SlowConsumer = 4001, "slow_consumer", Reconnect;
    /// Rebalanced after `goaway`, or a newer connection of the same boot.
    Moved = 4002, "moved", Reconnect;
    /// The connection reached its greatest age.
    MaxAge = 4003, "max_age", Reconnect;
    /// The node is above its memory cap.
    Overloaded = 4100, "overloaded", ReconnectAfterHint;
    /// The tenant is above its quota.
    OverQuota = 4101, "over_quota", ReconnectAfterHint;
    /// The token ran out.
    TokenExpired = 4201, "token_expired", TokenFirst;
    /// The token was revoked.
    TokenRevoked = 4202, "token_revoked", TokenFirst;
    /// `auth` brought a token for another identity.
    IdentityChanged = 4203, "identity_changed", TokenFirst;
    /// Another boot of this identity connected.
    Superseded = 4301, "superseded", OnceAfterAMinute;
    /// The device is blocked.
    Blocked = 4302, "blocked", Never;
}

impl CloseReason {
    /// The label in metrics: the same word.
    pub const fn metric_label(self) -> &'static str {
        self.text()
    }

    /// Whether this close means *come back*: with `?close=drop` it ends the TCP connection without a close frame, for
    /// clients that never return after a clean close.
    pub const fn comes_back(self) -> bool {
        matches!(self.advice(), Advice::BackOff | Advice::Reconnect | Advice::ReconnectAfterHint)
    }

    /// The reason a code of this table stands for.
    pub fn from_code(code: u16) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.code() == code)
    }
}

/// Whether a peer may send `code` in a close frame: RFC 6455 section 7.4 with the registered codes 1012 to 1014. The
/// codes that only stand for something that never was sent (1005, 1006, 1015) and the unassigned ones are not.
pub const fn is_valid_received(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// The published back-off in milliseconds before attempt `n` (0-based): `random(0, min(60 s, 1 s * 2^n))`, where `random`
/// is drawn from 0 to 1. `n` starts again after a minute of connection.
pub fn backoff_ms(n: u32, random: f64) -> u64 {
    let ceiling_ms = if n < 6 { 1_000_u32 << n } else { 60_000 };
    let share = if random.is_nan() { 1.0 } else { random.clamp(0.0, 1.0) };
    (f64::from(ceiling_ms) * share) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_texts_name_one_reason_each_and_fit_a_close_frame() {
        for pair in CloseReason::ALL.windows(2) {
            assert!(pair[0].code() < pair[1].code());
        }
        let texts: std::collections::HashSet<_> = CloseReason::ALL.iter().map(|reason| reason.text()).collect();
        assert_eq!(texts.len(), CloseReason::ALL.len());
        for reason in CloseReason::ALL {
            assert!(reason.text().len() <= 123);
            assert!(is_valid_received(reason.code()));
            assert_eq!(CloseReason::from_code(reason.code()), Some(*reason));
        }
    }

    #[test]
    fn the_table_is_the_published_one() {
        let codes: Vec<u16> = CloseReason::ALL.iter().map(|reason| reason.code()).collect();
        let published = [
            1000, 1001, 1002, 1003, 1007, 1008, 1009, 1011, 1012, 1013, 4000, 4001, 4002, 4003, 4100, 4101, 4201, 4202,
            4203, 4301, 4302,
        ];
        assert_eq!(codes, published);
        assert!(CloseReason::Restart.comes_back() && CloseReason::HeartbeatLost.comes_back());
        assert!(!CloseReason::Normal.comes_back() && !CloseReason::TokenExpired.comes_back());
        assert!(!CloseReason::Superseded.comes_back() && !CloseReason::Blocked.comes_back());
    }

    #[test]
    fn a_peer_cannot_send_reserved_codes() {
        for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535] {
            assert!(!is_valid_received(code), "{code}");
        }
        for code in [1000, 1003, 1007, 1011, 1012, 1013, 1014, 3000, 4999] {
            assert!(is_valid_received(code), "{code}");
        }
    }

    #[test]
    fn back_off_doubles_up_to_a_minute() {
        let full: Vec<u64> = (0..8).map(|n| backoff_ms(n, 1.0)).collect();
        assert_eq!(full, [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000]);
        assert_eq!(backoff_ms(u32::MAX, 1.0), 60_000);
        assert_eq!(backoff_ms(3, 0.0), 0);
        assert_eq!(backoff_ms(1, 0.5), 1_000);
    }
}

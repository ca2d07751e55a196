//! The only birthplace of an identity: a verified token.

pub mod claims;
pub mod keys;

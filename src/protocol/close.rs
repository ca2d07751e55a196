//! Every way a connection ends, as one closed enum: code, reason, advice and metric label.

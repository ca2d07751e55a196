//! Who owns a device: the seam, and its promise.

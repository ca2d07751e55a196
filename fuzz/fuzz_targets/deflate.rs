//! Any bytes inflated: no panic and never above the limit; any bytes deflated come back. Any extension header: no
//! panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_fuzz::socket::deflate::{deflate, inflate, negotiate};

const LIMIT: usize = 4096;

fuzz_target!(|data: &[u8]| {
    if let Ok(offers) = std::str::from_utf8(data) {
        if let Some(negotiated) = negotiate(offers) {
            assert!((9..=15).contains(&negotiated.window_bits()));
        }
    }
    let mut out = Vec::new();
    let fits = inflate(data, LIMIT, &mut out).is_ok();
    assert!(out.capacity() <= LIMIT + 1);
    assert!(!fits || out.len() <= LIMIT);

    let bits = 9 + data.first().map_or(0, |byte| byte % 7);
    let mut packed = Vec::new();
    deflate(data, bits, &mut packed);
    let mut back = Vec::new();
    assert!(inflate(&packed, data.len(), &mut back).is_ok());
    assert_eq!(back, data);
});

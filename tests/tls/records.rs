//! A TLS 1.2 client that writes its own records, to send what no library sends.

use std::sync::Arc;

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::{ClientConfig, ConnectionTrafficSecrets, ExtractedSecrets, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::fixture::{Authority, Client};

const EXPLICIT_NONCE: usize = 8;

/// Configuration of a client whose keys may be taken out: TLS 1.2, AES-128-GCM.
pub(crate) fn open_hearted(authority: &Authority) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(authority.cert.der().clone()).unwrap();
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.cipher_suites = vec![rustls::crypto::aws_lc_rs::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256];
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.enable_secret_extraction = true;
    config
}

/// One direction's keys.
struct Direction {
    key: LessSafeKey,
    salt: [u8; 4],
    seq: u64,
}

impl Direction {
    fn new((seq, secrets): (u64, ConnectionTrafficSecrets)) -> Self {
        let ConnectionTrafficSecrets::Aes128Gcm { key, iv } = secrets else { panic!("another suite was agreed") };
        let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, key.as_ref()).unwrap());
        Self { key, salt: iv.as_ref()[..4].try_into().unwrap(), seq }
    }

    fn nonce(&self, explicit: &[u8]) -> Nonce {
        Nonce::try_assume_unique_for_key(&[&self.salt[..], explicit].concat()).unwrap()
    }

    fn aad(&self, kind: u8, length: usize) -> Aad<Vec<u8>> {
        let length = u16::try_from(length).unwrap().to_be_bytes();
        Aad::from([&self.seq.to_be_bytes()[..], &[kind, 3, 3], &length].concat())
    }
}

/// The client after its handshake.
pub(crate) struct Records {
    io: DuplexStream,
    sends: Direction,
    receives: Direction,
}

impl Records {
    pub(crate) fn of(client: Client<DuplexStream>) -> Self {
        let (io, connection) = client.into_inner();
        let ExtractedSecrets { tx, rx } = connection.dangerous_extract_secrets().unwrap();
        Self { io, sends: Direction::new(tx), receives: Direction::new(rx) }
    }

    pub(crate) async fn send(&mut self, kind: u8, payload: &[u8]) {
        let explicit = self.sends.seq.to_be_bytes();
        let mut sealed = payload.to_vec();
        let aad = self.sends.aad(kind, payload.len());
        self.sends.key.seal_in_place_append_tag(self.sends.nonce(&explicit), aad, &mut sealed).unwrap();
        self.sends.seq += 1;
        let length = u16::try_from(EXPLICIT_NONCE + sealed.len()).unwrap().to_be_bytes();
        self.io.write_all(&[&[kind, 3, 3][..], &length, &explicit, &sealed].concat()).await.unwrap();
    }

    pub(crate) async fn receive(&mut self) -> (u8, Vec<u8>) {
        let mut header = [0; 5];
        self.io.read_exact(&mut header).await.unwrap();
        let mut body = vec![0; usize::from(u16::from_be_bytes([header[3], header[4]]))];
        self.io.read_exact(&mut body).await.unwrap();
        let (explicit, sealed) = body.split_at_mut(EXPLICIT_NONCE);
        let aad = self.receives.aad(header[0], sealed.len() - AES_128_GCM.tag_len());
        let opened = self.receives.key.open_in_place(self.receives.nonce(explicit), aad, sealed).unwrap();
        self.receives.seq += 1;
        (header[0], opened.to_vec())
    }
}

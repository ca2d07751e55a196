//! A new key on disk, readable by its owner only, and the set that verifies what it signs.

use std::io::Write;
use std::path::{Path, PathBuf};

use super::{SigningError, SigningKey};
use crate::auth::config::TokenAlgorithm;

/// What `tidegate keys new` wrote.
#[derive(Debug, Clone)]
pub struct GeneratedKeys {
    /// The private key, mode 600: `signing-key.pem` (PKCS#8), or for HS256 `signing-key.json` (a JWK).
    pub signing_key: PathBuf,
    /// `jwks.json`: what the gateway needs. For HS256 it is the secret itself, so it has mode 600 too.
    pub jwks: PathBuf,
    /// The key's thumbprint, which is its `kid`.
    pub kid: String,
}

/// Draws a key and writes it, with its set, into a directory that is made if need be.
///
/// # Errors
/// [`SigningError::Exists`] when either file is there already, [`SigningError::File`] when it cannot be written. Then
/// nothing is left behind.
pub fn generate(dir: &Path, algorithm: TokenAlgorithm) -> Result<GeneratedKeys, SigningError> {
    let is_secret = algorithm == TokenAlgorithm::HS256;
    let signing_key = dir.join(if is_secret { "signing-key.json" } else { "signing-key.pem" });
    let jwks = dir.join("jwks.json");
    if let Some(there) = [&signing_key, &jwks].into_iter().find(|path| path.symlink_metadata().is_ok()) {
        return Err(SigningError::Exists(there.display().to_string()));
    }
    let key = SigningKey::generate(algorithm)?;
    std::fs::create_dir_all(dir).map_err(|reason| failed(dir, reason))?;
    write_new(&signing_key, &key.stored, true)?;
    if let Err(error) = write_new(&jwks, &key.jwks(), is_secret) {
        // A key without its set is of no use, and would be in the way of the next try.
        let _ = std::fs::remove_file(&signing_key);
        return Err(error);
    }
    Ok(GeneratedKeys { signing_key, jwks, kid: key.kid })
}

fn write_new(path: &Path, text: &str, is_secret: bool) -> Result<(), SigningError> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, if is_secret { 0o600 } else { 0o644 });
    let mut file = options.open(path).map_err(|reason| match reason.kind() {
        std::io::ErrorKind::AlreadyExists => SigningError::Exists(path.display().to_string()),
        _ => failed(path, reason),
    })?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    written.map_err(|reason| {
        let _ = std::fs::remove_file(path);
        failed(path, reason)
    })
}

fn failed(path: &Path, reason: std::io::Error) -> SigningError {
    SigningError::File { path: path.display().to_string(), reason }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn a_key_written_is_the_key_read_and_is_never_overwritten() {
        for algorithm in [TokenAlgorithm::ES256, TokenAlgorithm::EdDSA, TokenAlgorithm::RS256, TokenAlgorithm::HS256] {
            let dir = tempfile::tempdir().unwrap();
            let dir = dir.path().join("new");
            let made = generate(&dir, algorithm).unwrap();
            let read = SigningKey::from_pem_file(&made.signing_key).unwrap();
            assert_eq!((read.algorithm(), read.kid()), (algorithm, made.kid.as_str()));
            assert_eq!(std::fs::read_to_string(&made.jwks).unwrap(), read.jwks());
            assert!(matches!(generate(&dir, algorithm), Err(SigningError::Exists(_))));
            std::fs::remove_file(&made.signing_key).unwrap();
            assert!(matches!(generate(&dir, algorithm), Err(SigningError::Exists(_))), "jwks.json is there");
            assert!(!made.signing_key.exists());
        }
    }

    #[cfg(unix)]
    #[test]
    fn what_is_secret_is_for_its_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        let dir = tempfile::tempdir().unwrap();
        let public = generate(&dir.path().join("a"), TokenAlgorithm::ES256).unwrap();
        assert_eq!(mode(&public.signing_key), 0o600);
        let shared = generate(&dir.path().join("b"), TokenAlgorithm::HS256).unwrap();
        assert_eq!((mode(&shared.signing_key), mode(&shared.jwks)), (0o600, 0o600));
    }
}

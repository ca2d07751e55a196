//! What nodes are given: certificates for devices and among each other, keys, topics, a configuration.

use std::path::{Path, PathBuf};
use std::process::Command;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

use super::program::run;
use super::{Options, RehearsalError, Spot};

/// The name that each peer's certificate carries.
const PEER: &str = "tidegate-peer";
/// Below this many devices a node has nothing to shed, and for so long it has to have had more than its share: as small as
/// a rehearsal needs it.
const REBALANCED_FROM: u32 = 100;
const SETTLE_S: u64 = 10;

/// Where they are.
pub(super) struct Files {
    dir: PathBuf,
    /// What topics are called before their own names: no other run's.
    pub(super) prefix: String,
}

impl Files {
    /// Makes all of them in `dir`, and the topics in Kafka.
    pub(super) fn make(options: &Options, dir: &Path) -> Result<Self, RehearsalError> {
        std::fs::create_dir_all(dir).map_err(RehearsalError::io(dir.display().to_string()))?;
        let files = Self { dir: dir.to_path_buf(), prefix: format!("rehearsal-{:08x}.", fastrand::u32(..)) };
        files.certificate("public", "127.0.0.1")?;
        files.certificate("peer", PEER)?;
        // Nothing is overwritten there: an earlier rehearsal's key does as well.
        if !files.path("signing-key.pem").exists() {
            run(Command::new(&options.tidegate).args(["keys", "new", "--dir"]).arg(dir))?;
        }
        let topics = format!("[kafka]\nbrokers = '{}'\ntopic_prefix = '{}'\n", options.brokers, files.prefix);
        files.write("topics.toml", &topics)?;
        let mut make = Command::new(&options.tidegate);
        make.args(["topics", "--apply", "--replication-factor", "1", "--partitions", "6", "--config"]);
        run(make.arg(files.path("topics.toml")))?;
        Ok(files)
    }

    /// A file's path.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf, RehearsalError> {
        let path = self.path(name);
        std::fs::write(&path, text).map_err(RehearsalError::io(path.display().to_string()))?;
        Ok(path)
    }

    /// An authority and a certificate of it: `KIND-ca.pem`, `KIND-cert.pem`, `KIND-key.pem`.
    fn certificate(&self, kind: &str, name: &str) -> Result<(), RehearsalError> {
        let mut authority = CertificateParams::new(Vec::new())?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        authority.distinguished_name.push(DnType::CommonName, format!("rehearsal {kind}"));
        let key = KeyPair::generate()?;
        let certificate = authority.self_signed(&key)?;
        let issuer = Issuer::new(authority, key);
        let mut leaf = CertificateParams::new(vec![name.to_owned()])?;
        leaf.use_authority_key_identifier_extension = true;
        leaf.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate()?;
        let signed = leaf.signed_by(&key, &issuer)?;
        self.write(&format!("{kind}-ca.pem"), &certificate.pem())?;
        self.write(&format!("{kind}-cert.pem"), &signed.pem())?;
        self.write(&format!("{kind}-key.pem"), &key.serialize_pem())?;
        Ok(())
    }

    /// A node's configuration.
    pub(super) fn config(&self, options: &Options, spot: &Spot) -> Result<PathBuf, RehearsalError> {
        let file = |name: &str| self.path(name).display().to_string();
        let Spot { name, public, internal, peer } = spot;
        let mut text = format!(
            "[node]\nname = '{name}'\n\
             [public]\nlisten = '{public}'\ntls_cert = '{}'\ntls_key = '{}'\nproxy_protocol = true\n\
             [internal]\nlisten = '{internal}'\n\
             [peer]\nlisten = '{peer}'\ntls_cert = '{}'\ntls_key = '{}'\ntls_ca = '{}'\n\
             [auth]\njwks = '{}'\nissuer = 'tidegate'\naudience = 'tidegate'\n\
             [kafka]\nbrokers = '{}'\ntopic_prefix = '{}'\n\
             [redis]\nurls = ['{}']\n\
             [drain]\npropagation_s = {}\nrate_per_s = {}\nbudget_s = {}\n\
             [telemetry]\nlog_format = 'text'\n",
            file("public-cert.pem"),
            file("public-key.pem"),
            file("peer-cert.pem"),
            file("peer-key.pem"),
            file("peer-ca.pem"),
            file("jwks.json"),
            options.brokers,
            self.prefix,
            options.redis,
            options.propagation_s,
            options.rate_per_s,
            options.budget_s,
        );
        if options.rebalance {
            text += &format!("[rebalance]\nminimum = {REBALANCED_FROM}\nsettle_s = {SETTLE_S}\n");
        }
        text += &options.extra_config;
        self.write(&format!("{name}.toml"), &text)
    }
}

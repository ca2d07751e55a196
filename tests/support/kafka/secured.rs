//! A Kafka with four doors: SCRAM over TLS, client certificates, tokens over TLS, and one without a lock for whoever makes
//! topics and gives rights. Rights are asked for at the other three (`StandardAuthorizer`).

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use tempfile::TempDir;

use super::super::pki::{Authority, Leaf};
use super::{Process, client, config, java, output, ports, properties, wait_until};

const STARTED: Duration = Duration::from_secs(60);
/// Kafka's numbers for kinds of resources, and for what may be done with them.
const TOPIC: u8 = 2;
const GROUP: u8 = 3;
const READ: u8 = 3;
const WRITE: u8 = 4;
const DESCRIBE: u8 = 8;

/// What somebody may do with one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Right {
    kind: u8,
    name: String,
    operation: u8,
}

impl Right {
    /// To read a topic.
    pub fn read(topic: &str) -> Self {
        Self { kind: TOPIC, name: topic.to_owned(), operation: READ }
    }

    /// To write to a topic.
    pub fn write(topic: &str) -> Self {
        Self { kind: TOPIC, name: topic.to_owned(), operation: WRITE }
    }

    /// To know of a topic.
    pub fn describe(topic: &str) -> Self {
        Self { kind: TOPIC, name: topic.to_owned(), operation: DESCRIBE }
    }

    /// To read as a group.
    pub fn group(group: &str) -> Self {
        Self { kind: GROUP, name: group.to_owned(), operation: READ }
    }
}

/// Who comes with SCRAM, and with which password.
pub type User<'a> = (&'a str, &'a str);

/// Where tokens are checked.
pub struct Tokens<'a> {
    /// The keys, a URL.
    pub jwks: &'a str,
    /// `iss`.
    pub issuer: &'a str,
    /// `aud`.
    pub audience: &'a str,
    /// How long a connection lives before its client has to show a token again, in milliseconds.
    pub shown_again_ms: u32,
}

/// The running broker, killed and removed when dropped.
pub struct Secured {
    process: Process,
    plain: u16,
    scram: u16,
    mtls: u16,
    tokens: u16,
    _dir: TempDir,
}

impl Secured {
    /// Starts it and waits until it answers. Its certificate, and those it believes, are of `authority`.
    pub fn start(authority: &Authority, users: &[User<'_>], tokens: &Tokens<'_>) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let [plain, scram, mtls, oauth, controller] = [(); 5].map(|()| ports::free());
        let signed = authority.sign(Leaf::default());
        std::fs::write(dir.path().join("keystore.pem"), format!("{}{}", signed.key, signed.cert)).expect("written");
        std::fs::write(dir.path().join("ca.pem"), &authority.pem).expect("written");
        let mut text = properties(dir.path(), plain, controller);
        let doors = format!(",SCRAM://localhost:{scram},MTLS://localhost:{mtls},OAUTH://localhost:{oauth}");
        for (key, more) in [
            ("\nlisteners=", doors.as_str()),
            ("\nadvertised.listeners=", &doors),
            ("protocol.map=", ",SCRAM:SASL_SSL,MTLS:SSL,OAUTH:SASL_SSL"),
        ] {
            let line = text.find(key).expect("the key is there") + 1;
            let end = line + text[line..].find('\n').expect("a line");
            text.insert_str(end, more);
        }
        locks(&mut text, dir.path(), tokens);
        std::fs::write(config(dir.path()), text).expect("written");
        format(dir.path(), users);
        let mut command = java();
        // Kafka asks nobody for keys whose address was not allowed on its command line.
        command.arg(format!("-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={}", tokens.jwks));
        command.arg("kafka.Kafka").arg(config(dir.path()));
        let process = Process::start("Kafka", &mut command, &dir.path().join("kafka.log"));
        let mut broker = Self { process, plain, scram, mtls, tokens: oauth, _dir: dir };
        broker.wait_ready();
        broker
    }

    fn wait_ready(&mut self) {
        let consumer: BaseConsumer = client(&self.plain()).create().expect("a consumer");
        wait_until("the broker answers", STARTED, || {
            if let Some(status) = self.process.ended() {
                panic!("Kafka ended with {status}");
            }
            consumer.fetch_metadata(None, Duration::from_millis(500)).is_ok_and(|data| !data.brokers().is_empty())
        });
    }

    /// The door without a lock.
    pub fn plain(&self) -> String {
        format!("127.0.0.1:{}", self.plain)
    }

    /// Name and password, over TLS.
    pub fn scram(&self) -> String {
        format!("localhost:{}", self.scram)
    }

    /// A client's certificate.
    pub fn mtls(&self) -> String {
        format!("localhost:{}", self.mtls)
    }

    /// A token, over TLS.
    pub fn tokens(&self) -> String {
        format!("localhost:{}", self.tokens)
    }

    /// Gives rights to somebody (`User:name`).
    pub fn allow(&self, principal: &str, rights: &[Right]) {
        let mut body = u32::try_from(rights.len()).expect("few").to_be_bytes().to_vec();
        for right in rights {
            const LITERAL: u8 = 3;
            const ALLOW: u8 = 3;
            body.push(right.kind);
            put_text(&mut body, &right.name);
            body.push(LITERAL);
            put_text(&mut body, principal);
            put_text(&mut body, "*");
            body.extend([right.operation, ALLOW]);
        }
        // CreateAcls, version 1. The answer: length, number, throttle time, how many, and of each the error and its text.
        let answer = self.ask(30, 1, &body);
        let mut rest = answer.get(16..).expect("an answer");
        for right in rights {
            let (error, behind) = rest.split_first_chunk().expect("a number");
            assert_eq!(i16::from_be_bytes(*error), 0, "{right:?}: {}", String::from_utf8_lossy(behind));
            rest = behind.get(2..).expect("no text");
        }
    }

    /// One request in Kafka's own protocol; the whole answer behind its length.
    fn ask(&self, api: i16, version: i16, body: &[u8]) -> Vec<u8> {
        let mut request = [api.to_be_bytes(), version.to_be_bytes()].concat();
        request.extend(7_i32.to_be_bytes());
        put_text(&mut request, "test");
        request.extend(body);
        let mut stream = TcpStream::connect(self.plain()).expect("the broker accepts");
        stream.set_read_timeout(Some(STARTED)).expect("an open socket");
        stream.write_all(&u32::try_from(request.len()).expect("short").to_be_bytes()).expect("sent");
        stream.write_all(&request).expect("sent");
        let mut length = [0; 4];
        stream.read_exact(&mut length).expect("an answer");
        let mut answer = vec![0; usize::try_from(u32::from_be_bytes(length)).expect("short")];
        stream.read_exact(&mut answer).expect("a whole answer");
        [&length[..], &answer].concat()
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend(u16::try_from(text.len()).expect("short").to_be_bytes());
    out.extend(text.as_bytes());
}

/// What each door asks for.
fn locks(text: &mut String, dir: &Path, tokens: &Tokens<'_>) {
    let Tokens { jwks, issuer, audience, shown_again_ms } = tokens;
    let module = "org.apache.kafka.common.security";
    let oauth = "listener.name.oauth.";
    write!(
        text,
        "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n\
         super.users=User:ANONYMOUS\n\
         ssl.keystore.type=PEM\nssl.keystore.location={dir}/keystore.pem\n\
         ssl.truststore.type=PEM\nssl.truststore.location={dir}/ca.pem\n\
         listener.name.mtls.ssl.client.auth=required\n\
         listener.name.scram.sasl.enabled.mechanisms=SCRAM-SHA-512\n\
         listener.name.scram.scram-sha-512.sasl.jaas.config={module}.scram.ScramLoginModule required;\n\
         {oauth}sasl.enabled.mechanisms=OAUTHBEARER\n\
         {oauth}oauthbearer.sasl.jaas.config={module}.oauthbearer.OAuthBearerLoginModule required;\n\
         {oauth}oauthbearer.sasl.server.callback.handler.class={module}.oauthbearer.OAuthBearerValidatorCallbackHandler\n\
         {oauth}oauthbearer.connections.max.reauth.ms={shown_again_ms}\n\
         {oauth}sasl.oauthbearer.jwks.endpoint.url={jwks}\n\
         {oauth}sasl.oauthbearer.expected.issuer={issuer}\n\
         {oauth}sasl.oauthbearer.expected.audience={audience}\n",
        dir = dir.display()
    )
    .expect("text grows");
}

fn format(dir: &Path, users: &[User<'_>]) {
    let id = output(java().args(["kafka.tools.StorageTool", "random-uuid"]));
    let mut command = java();
    command.args(["kafka.tools.StorageTool", "format", "-t", id.trim(), "-c"]).arg(config(dir));
    for (name, password) in users {
        command.args(["--add-scram", &format!("SCRAM-SHA-512=[name={name},password={password}]")]);
    }
    output(&mut command);
}

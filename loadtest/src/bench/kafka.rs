//! A real Apache Kafka broker for one run: the jars from Maven Central, one JVM, its own ports and data.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;

use super::BenchError;
use super::servers::{Server, free_address};

const VERSION: &str = "4.1.1";
const PARTITIONS: i32 = 12;
const TOPICS: [&str; 4] = ["tidegate.telemetry", "tidegate.status", "obvious.telemetry", "bare.telemetry"];

/// A broker, and the process where it is ours.
pub struct Kafka {
    /// For `bootstrap.servers`.
    pub brokers: String,
    _server: Option<Server>,
}

impl Kafka {
    /// Takes the given brokers, or starts one with its data in `dir`; makes the topics.
    ///
    /// # Errors
    /// When the jars cannot be had, or the broker does not start.
    pub async fn get(given: Option<&str>, dir: &Path) -> Result<Self, BenchError> {
        let kafka = match given {
            Some(brokers) => Self { brokers: brokers.to_owned(), _server: None },
            None => Self::start(dir)?,
        };
        kafka.make_topics().await?;
        Ok(kafka)
    }

    fn start(dir: &Path) -> Result<Self, BenchError> {
        let class_path = format!("{}/*", jars(dir)?.display());
        let (address, controller) = (free_address()?, free_address()?);
        let data = dir.join("kafka-data");
        let _ = std::fs::remove_dir_all(&data);
        let file = dir.join("kafka.properties");
        std::fs::write(&file, properties(address, controller, &data)).map_err(BenchError::io("kafka.properties"))?;
        let file = file.display().to_string();
        let tool = |words: &[&str]| output("java", &[&["-cp", &class_path, "kafka.tools.StorageTool"], words].concat());
        let id = tool(&["random-uuid"])?;
        let id = id.lines().last().unwrap_or_default().trim().to_owned();
        tool(&["format", "-t", &id, "-c", &file])?;
        let words =
            ["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", &class_path, "kafka.Kafka", &file];
        let words: Vec<String> = words.iter().map(ToString::to_string).collect();
        let mut server = Server::start("0,1", Path::new("java"), &words, &dir.join("kafka.log"))?;
        server.wait_for(address)?;
        Ok(Self { brokers: address.to_string(), _server: Some(server) })
    }

    async fn make_topics(&self) -> Result<(), BenchError> {
        let admin: AdminClient<DefaultClientContext> =
            ClientConfig::new().set("bootstrap.servers", &self.brokers).create().map_err(BenchError::failed)?;
        let topics = TOPICS.map(|name| NewTopic::new(name, PARTITIONS, TopicReplication::Fixed(1)));
        // One that exists already is as good.
        admin.create_topics(&topics, &AdminOptions::new()).await.map(drop).map_err(BenchError::failed)
    }
}

fn properties(address: SocketAddr, controller: SocketAddr, data: &Path) -> String {
    format!(
        "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@{controller}\n\
         listeners=PLAINTEXT://{address},CONTROLLER://{controller}\nadvertised.listeners=PLAINTEXT://{address}\n\
         controller.listener.names=CONTROLLER\nlog.dirs={}\noffsets.topic.replication.factor=1\n\
         transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\nnum.partitions={PARTITIONS}\n\
         log.retention.bytes=268435456\nlog.segment.bytes=67108864\n",
        data.display()
    )
}

/// The directory with the jars, filled by Maven when it is not there.
fn jars(dir: &Path) -> Result<PathBuf, BenchError> {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(|| home.join(".cache"), PathBuf::from);
    let root = cache.join("tidegate").join(format!("kafka-{VERSION}"));
    let jar = format!("kafka_2.13-{VERSION}.jar");
    if let Some(found) = [root.clone(), root.join("libs")].into_iter().find(|place| place.join(&jar).exists()) {
        return Ok(found);
    }
    let dependency = |group: &str, name: &str, version: &str| {
        format!(
            "<dependency><groupId>{group}</groupId><artifactId>{name}</artifactId><version>{version}</version>\
             <scope>runtime</scope></dependency>"
        )
    };
    let pom = format!(
        "<project xmlns=\"http://maven.apache.org/POM/4.0.0\"><modelVersion>4.0.0</modelVersion>\
         <groupId>tidegate</groupId><artifactId>bench-kafka</artifactId><version>1</version><packaging>pom</packaging>\
         <dependencies>{}{}</dependencies></project>",
        dependency("org.apache.kafka", "kafka_2.13", VERSION),
        dependency("org.slf4j", "slf4j-simple", "1.7.36")
    );
    let file = dir.join("kafka-pom.xml");
    std::fs::write(&file, pom).map_err(BenchError::io("kafka-pom.xml"))?;
    let (file, target) = (file.display().to_string(), format!("-DoutputDirectory={}", root.display()));
    output("mvn", &["-q", "-B", "-f", &file, "dependency:copy-dependencies", "-DincludeScope=runtime", &target])?;
    Ok(root)
}

fn output(program: &str, words: &[&str]) -> Result<String, BenchError> {
    let output = Command::new(program).args(words).output().map_err(BenchError::io(format!("running {program}")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(BenchError::failed(format!("{program} {words:?} failed: {said}")))
}

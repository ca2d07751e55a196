"""A real node, `tidegate serve` on the Kafka and the Redis of the tests, and what its topics hold."""

import contextlib
import json
import os
import pathlib
import secrets
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition

PATIENCE_S = 60
TENANT = "acme"
# Small enough that what a node says only rarely can be had in a second.
LIMITS = "messages_per_s = 20\nheartbeat_min_s = 5\nfaults_per_minute = 100\nmessage_bytes = 4096"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Node:
    """One node in a folder of its own, with topics of its own."""

    def __init__(self, program, folder):
        self.program, self.folder = program, pathlib.Path(folder)
        self.prefix = f"apidocs-{secrets.token_hex(4)}."
        self.public, self.internal = free_port(), free_port()
        self.run("keys", "new", "--dir", self.folder / "keys")
        self.config = self.folder / "tidegate.toml"
        self.config.write_text(
            f'[node]\nname = "apidocs"\n'
            f'[public]\nlisten = "127.0.0.1:{self.public}"\nplaintext = true\n'
            f'[internal]\nlisten = "127.0.0.1:{self.internal}"\n'
            f'[peer]\nlisten = "127.0.0.1:0"\nplaintext = true\n'
            f'[auth]\njwks = "{self.folder}/keys/jwks.json"\n'
            f'[kafka]\nbrokers = "{os.environ["TIDEGATE_TEST_KAFKA"]}"\ntopic_prefix = "{self.prefix}"\n'
            # A database of its own: the nodes of other tests are none of its cluster.
            f'[redis]\nurls = ["{os.environ["TIDEGATE_TEST_REDIS"]}/1"]\n'
            f"[drain]\npropagation_s = 0\nbudget_s = 10\n"
            f"[limits]\n{LIMITS}\n"
        )
        self.run("topics", "--apply", "--replication-factor", "1", "--partitions", "1", "--config", self.config)
        self.log = (self.folder / "log").open("w")
        self.process = subprocess.Popen(
            [program, "serve", "--config", self.config], stdout=self.log, stderr=self.log, cwd=self.folder
        )

    def run(self, *args):
        run = subprocess.run([self.program, *map(str, args)], capture_output=True, text=True)
        if run.returncode:
            raise RuntimeError(f"tidegate {args[0]}: {run.stderr}")
        return run.stdout.strip()

    def token(self, sub, *scopes, ttl="1h", devices=()):
        words = [word for scope in scopes for word in ("--scope", scope)]
        words += [word for glob in devices for word in ("--devices", glob)]
        key = self.folder / "keys" / "signing-key.pem"
        return self.run("token", "--sub", sub, "--tenant", TENANT, "--ttl", ttl, "--key", key, *words)

    def wait_ready(self):
        end = time.monotonic() + PATIENCE_S
        while self.process.poll() is None and time.monotonic() < end:
            with contextlib.suppress(OSError, urllib.error.HTTPError):
                urllib.request.urlopen(f"http://127.0.0.1:{self.internal}/readyz", timeout=5).close()
                return
            time.sleep(0.1)
        raise RuntimeError(f"the node is not ready: {(self.folder / 'log').read_text()[-2000:]}")

    def leave(self):
        """Tells it to leave, as Kubernetes does."""
        self.process.send_signal(signal.SIGTERM)


@contextlib.contextmanager
def node(program):
    """A node that is ready, and gone at the end."""
    with tempfile.TemporaryDirectory() as folder:
        one = Node(program, folder)
        try:
            one.wait_ready()
            yield one
        finally:
            one.process.kill()
            one.process.wait()
            one.log.close()


def produce(one, topic, key, value, headers=()):
    """Writes a record into one of the node's topics."""
    producer = Producer({"bootstrap.servers": os.environ["TIDEGATE_TEST_KAFKA"]})
    producer.produce(one.prefix + topic, key=key, value=value, headers=list(headers))
    if producer.flush(PATIENCE_S):
        raise RuntimeError(f"a record for {topic} was not stored")


def records(one, topics):
    """Every record of the node's topics so far: topic, key, headers and value as JSON."""
    settings = {"bootstrap.servers": os.environ["TIDEGATE_TEST_KAFKA"], "group.id": "apidocs"}
    consumer = Consumer(settings | {"enable.auto.commit": False})
    try:
        for topic in topics:
            place = TopicPartition(one.prefix + topic, 0, OFFSET_BEGINNING)
            _, end = consumer.get_watermark_offsets(place, timeout=PATIENCE_S)
            consumer.assign([place])
            read = 0
            while read < end:
                record = consumer.poll(PATIENCE_S)
                if record is None or record.error():
                    raise RuntimeError(f"{topic} cannot be read: {record and record.error()}")
                read = record.offset() + 1
                yield {
                    "topic": topic,
                    "key": (record.key() or b"").decode(),
                    "headers": {name: value.decode() for name, value in record.headers() or []},
                    "value": json.loads(record.value()) if record.value() else None,
                }
    finally:
        consumer.close()

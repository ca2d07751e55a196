"""What the chart renders for trying out, run together: its Redis and its Kafka by their own command lines, and two
nodes in the image's content, with the configuration, keys, certificates and tokens that helm made. Then the command of
`helm test`.

There is no Kubernetes here: names and ports of Services become ports of 127.0.0.1, and mounts become copies.
"""

import base64
import contextlib
import os
import pathlib
import shlex
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request

from chart import CHART, ROOT, objects_of, text_of

START_S = 120


def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class Set:
    """The rendered objects, and what stands in the place of their names and paths."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.objects = {
            (item["kind"], item["metadata"]["name"]): item
            for item in objects_of(text_of([CHART / "ci" / "tryout-values.yaml"]))
        }
        self.redis, self.kafka, self.controller, *self.nodes = free_ports(3 + 2 * 3)
        self.processes = []

    def container(self, name, init=False):
        spec = self.objects["Deployment", name]["spec"]["template"]["spec"]
        return spec["initContainers" if init else "containers"][0]

    def mount(self, name, mounted, target):
        """Copies what a volume of a Deployment holds to where it would be mounted."""
        volumes = self.objects["Deployment", name]["spec"]["template"]["spec"]["volumes"]
        volume = next(each for each in volumes if each["name"] == mounted)
        target.mkdir(parents=True, exist_ok=True)
        if "configMap" in volume:
            data = self.objects["ConfigMap", volume["configMap"]["name"]]["data"]
        else:
            secret = self.objects["Secret", volume["secret"]["secretName"]]
            data = secret.get("stringData") or {
                key: base64.b64decode(text).decode() for key, text in secret["data"].items()
            }
        for key, text in data.items():
            (target / key).write_text(self.here(text))

    def here(self, text):
        for name, port in (
            ("gw-tidegate-kafka:9092", self.kafka),
            ("gw-tidegate-redis:6379", self.redis),
            ("localhost:9093", self.controller),
        ):
            text = text.replace(name, f"127.0.0.1:{port}")
        return text.replace("PLAINTEXT://:9092", f"PLAINTEXT://127.0.0.1:{self.kafka}").replace(
            "/data/", f"{self.folder}/"
        )

    def log(self, name):
        return self.folder / f"{name}.log"

    def start(self, name, command, **options):
        with open(self.log(name), "a") as out:
            self.processes.append(subprocess.Popen(command, stdout=out, stderr=out, **options))

    def wait(self, name, ready):
        process = self.processes[-1]
        end = time.monotonic() + START_S
        while time.monotonic() < end and process.poll() is None:
            with contextlib.suppress(OSError):
                if ready():
                    return
            time.sleep(0.1)
        raise Failed(f"{name} did not start: {self.log(name).read_text()[-2000:]}")

    def stop(self):
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Failed(Exception):
    """What went wrong, for a person."""


def listens(port):
    with socket.create_connection(("127.0.0.1", port), 1):
        return True


def is_ready(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
        return answer.status == 200


def neighbours(these):
    data = these.folder / "redis"
    data.mkdir()
    command = [
        (
            str(these.redis)
            if word == "6379"
            else str(data) if word == "/data" else "127.0.0.1" if word == "0.0.0.0" else word
        )
        for word in these.container("gw-tidegate-redis")["command"]
    ]
    these.start("redis", command)
    these.wait("redis", lambda: listens(these.redis))
    these.mount("gw-tidegate-kafka", "config", these.folder / "kafka-config")
    libs = os.environ["TIDEGATE_KAFKA_LIBS"]

    def java(init):
        return [
            word.replace("/opt/kafka/libs", libs).replace("/config/", f"{these.folder}/kafka-config/")
            for word in these.container("gw-tidegate-kafka", init)["command"]
        ]

    formatted = subprocess.run(java(True), capture_output=True, text=True)
    if formatted.returncode:
        raise Failed(f"Kafka could not be formatted: {formatted.stdout}{formatted.stderr}")
    these.start("kafka", java(False))
    these.wait("kafka", lambda: listens(these.kafka))


def in_image(these, args, env=()):
    """A command with the image's content as its root, as the image's user."""
    root = these.folder / "root"
    if os.geteuid() == 0:
        enter = ["chroot", "--userspec=65532:65532", root]
    else:
        enter = ["unshare", "--user", "--map-root-user", "--root", root]
    path = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    return [*enter, "/usr/bin/tidegate", *args], {**path, **dict(env)}


def run_in_image(these, args, env=()):
    command, env = in_image(these, args, env)
    run = subprocess.run(command, capture_output=True, text=True, env=env)
    if run.returncode:
        raise Failed(f"{shlex.join(map(str, args))}: {run.returncode} {run.stdout}{run.stderr}")
    return run.stdout


def nodes(these, binary):
    subprocess.run([ROOT / "image" / "rootfs", binary, these.folder / "root"], check=True)
    for name in ("config", "peer", "jwks"):
        these.mount("gw-tidegate", name, these.folder / "root/etc/tidegate" / name)
    run_in_image(these, these.container("gw-tidegate", init=True)["args"])
    args = these.container("gw-tidegate")["args"]
    for number in range(2):
        public, internal, peer = these.nodes[3 * number : 3 * number + 3]
        env = {
            "HOSTNAME": f"gw-{number}",
            "TIDEGATE_PUBLIC__LISTEN": f"127.0.0.1:{public}",
            "TIDEGATE_INTERNAL__LISTEN": f"127.0.0.1:{internal}",
            "TIDEGATE_PEER__LISTEN": f"127.0.0.1:{peer}",
            "TIDEGATE_PEER__ADVERTISE": f"127.0.0.1:{peer}",
            "TIDEGATE_DRAIN__PROPAGATION_S": "0",
        }
        command, env = in_image(these, args, env)
        these.start(f"node-{number}", command, env=env)
        these.wait(f"node-{number}", lambda: is_ready(internal))


def smoke(these):
    """The test pod's own command; then the same with the API of the other node, so that the command goes by a peer."""
    pod = these.objects["Pod", "gw-tidegate-smoke"]["spec"]["containers"][0]
    tokens = these.objects["Secret", "gw-tidegate-tryout"]["stringData"]
    env = {entry["name"]: tokens[entry["valueFrom"]["secretKeyRef"]["key"]] for entry in pod["env"]}
    first, second = these.nodes[0], these.nodes[3]
    args = [word.replace("gw-tidegate:80", f"127.0.0.1:{first}") for word in pod["args"]]
    said = run_in_image(these, args, env) + run_in_image(these, [*args, f"--api-url=http://127.0.0.1:{second}"], env)
    if said.count("ok       ack") != 2 or said.count("ok       command") != 2:
        raise Failed(f"helm test's command did not say that there were acks and commands: {said}")
    own = run_in_image(
        these, ["token", "--sub=sensor-002", "--tenant=tryout", "--key=/etc/tidegate/jwks/signing-key.json"]
    )
    run_in_image(these, args, {"TIDEGATE_SMOKE_TOKEN": own.strip()})


def check(binary):
    what = "Redis, Kafka and two nodes as the chart has them for trying out: acks, and a command by a peer"
    folder = tempfile.mkdtemp()
    # The image's user reads its files there.
    os.chmod(folder, 0o755)
    these = Set(folder)
    try:
        neighbours(these)
        nodes(these, binary)
        smoke(these)
    except Failed as error:
        return [str(error)], what
    finally:
        these.stop()
        shutil.rmtree(folder)
    return [], what

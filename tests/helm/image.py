"""The image's content as a folder: the gateway runs in it with nothing else, as nobody, and nothing else is in it."""

import os
import pathlib
import re
import subprocess
import tempfile

from chart import ROOT

# What there may be beside libraries.
FILES = {
    "usr/bin/tidegate",
    "etc/passwd",
    "etc/group",
    "etc/nsswitch.conf",
    "etc/ssl/certs/ca-certificates.crt",
    "usr/share/doc/tidegate/LICENSE",
}


def check(binary):
    mistakes = dockerfile()
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder) / "root"
        made = subprocess.run([ROOT / "image" / "rootfs", binary, root], capture_output=True, text=True)
        if made.returncode:
            return mistakes + [made.stderr.strip()], "the image"
        there = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
        mistakes += [f"{name} is missing" for name in FILES - there]
        mistakes += [
            f"{name} is not expected"
            for name in there - FILES
            if not re.fullmatch(r"(usr/)?lib(64)?/[\w./-]+\.so[.\d]*", name)
        ]
        for args, wanted in (
            (["--version"], "tidegate "),
            (["default-config"], "[public]"),
            (["token", "--sub", "a", "--key", "/no"], ""),
        ):
            mistakes += runs(root, args, wanted)
        size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) >> 20
    return mistakes, f"the image's content, {size} MiB with this binary"


def runs(root, args, wanted):
    """Whether a command runs with the folder as its root, as the image's user."""
    if os.geteuid() == 0:
        command = ["chroot", "--userspec=65532:65532", root, "/usr/bin/tidegate", *args]
    else:
        command = ["unshare", "--user", "--map-root-user", "--root", root, "/usr/bin/tidegate", *args]
    run = subprocess.run(command, capture_output=True, text=True, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
    failed = run.returncode != (0 if wanted else 1) or wanted not in run.stdout
    return [f"in the image, {' '.join(args)}: {run.returncode} {run.stderr.strip()}"] if failed else []


def included():
    """The files that the gateway's sources have compiled in, from the root of the repository."""
    for path in (ROOT / "src").rglob("*.rs"):
        for name in re.findall(r'include_(?:str|bytes)!\("([^"]+)"\)', path.read_text()):
            yield os.path.relpath((path.parent / name).resolve(), ROOT)


def dockerfile():
    """There is no container engine where the tests run: what can be seen of the Dockerfile without one."""
    text = (ROOT / "Dockerfile").read_text()
    sources = [word for line in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.M) for word in line.split()]
    ignored = (ROOT / ".dockerignore").read_text().split("\n")
    mistakes = [f"Dockerfile: {name} is not there" for name in sources if not (ROOT / name).exists()]
    mistakes += [
        f"Dockerfile: {name}, compiled in, is not copied" for name in included() if not name.startswith(tuple(sources))
    ]
    mistakes += [f".dockerignore leaves out {name}" for name in sources if f"!{name}" not in ignored]
    if not re.search(r"^ARG RUST_IMAGE=\S+:\d+\.\d+\.\d+-\w+$", text, re.M):
        mistakes.append("Dockerfile: the base has no full version")
    last = text.rsplit("\nFROM ", 1)[1]
    for line in (
        "scratch",
        "USER 65532:65532",
        'ENTRYPOINT ["/usr/bin/tidegate"]',
        "org.opencontainers.image.licenses",
    ):
        if line not in last:
            mistakes.append(f"Dockerfile: its last stage lacks {line}")
    version = re.search(r'^version = "(.+)"', (ROOT / "Cargo.toml").read_text(), re.M)[1]
    for name, found in (
        ("Dockerfile", f"ARG VERSION={version}\n"),
        ("helm/tidegate/Chart.yaml", f'appVersion: "{version}"\n'),
    ):
        if found not in (ROOT / name).read_text():
            mistakes.append(f"{name}: is not of version {version}")
    return mistakes

"""Images made from folders and put into the cluster: the gateway's own, and of this machine's programs what it needs."""

import os
import pathlib
import re
import shutil
import subprocess

from cluster import ROOT, call, need

# What a Java runtime has that no broker reads.
NOT_NEEDED = shutil.ignore_patterns("jmods", "man", "demo", "src.zip", "ct.sym", "legal")


def put(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)
    target.chmod(0o755)


def with_libraries(folder, *files):
    """Adds the libraries that these are linked with, and what libc reads."""
    said = "".join(subprocess.run(["ldd", file], capture_output=True, text=True).stdout for file in files)
    for library in sorted(set(re.findall(r"/\S+", said)) - set(map(str, files))):
        if os.path.exists(library):
            put(os.path.realpath(library), folder / library[1:])
    for name in ("etc", "tmp"):
        (folder / name).mkdir(exist_ok=True)
    (folder / "etc/nsswitch.conf").write_text("hosts: files dns\n")


def program(folder, *names):
    """Programs of this machine, with their libraries."""
    for name in names:
        found = shutil.which(name)
        need(found, f"{name} is missing")
        put(os.path.realpath(found), folder / "usr/bin" / pathlib.Path(name).name)
    with_libraries(folder, *(folder / "usr/bin" / pathlib.Path(name).name for name in names))


def kafka(folder):
    home = pathlib.Path(os.path.realpath(shutil.which("java"))).parents[1]
    shutil.copytree(os.environ["TIDEGATE_KAFKA_LIBS"], folder / "opt/kafka/libs")
    shutil.copytree(home, folder / str(home)[1:], ignore=NOT_NEEDED, ignore_dangling_symlinks=True)
    (folder / "usr/bin").mkdir(parents=True)
    (folder / "usr/bin/java").symlink_to(home / "bin/java")
    with_libraries(folder, home / "bin/java", *home.rglob("*.so"))


def load(scratch):
    """Makes all images and puts them into the cluster, one after the other to keep the disk free."""
    binary = pathlib.Path(os.environ["TIDEGATE_TEST_BINARY"])
    tester = f"{binary}-loadtest"
    makers = {
        "tidegate": ("/usr/bin/tidegate", lambda folder: call(ROOT / "image" / "rootfs", binary, folder)),
        "tidegate-redis": ("/usr/bin/redis-server", lambda folder: program(folder, "redis-server")),
        "tidegate-kafka": ("/usr/bin/java", kafka),
        "tidegate-load": ("/usr/bin/tidegate-loadtest", lambda folder: program(folder, tester, "bash")),
    }
    for name, (entrypoint, make) in makers.items():
        folder = scratch / name
        if name != "tidegate":
            folder.mkdir()
        make(folder)
        call(os.environ["TIDEGATE_LOAD_IMAGE"], f"localhost/{name}:test", folder, entrypoint)
        shutil.rmtree(folder)
    return len(makers)

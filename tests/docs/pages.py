"""The commands on the pages do what the pages show, against a fresh `tidegate dev` for each page."""

import concurrent.futures
import contextlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import tempfile

import source

PATIENCE_S = 45


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def gateway(program):
    """A `tidegate dev`, by what it says of itself."""
    command = [program, "dev", "--listen", "127.0.0.1:0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.kill()


def runnable(page):
    """The blocks that are run, each with its exit code and the lines it shows."""
    for at, block in enumerate(page.blocks):
        words = block.info.split()
        if words[:2] != ["sh", "test"]:
            continue
        code = next((int(word.removeprefix("exit=")) for word in words if word.startswith("exit=")), 0)
        behind = page.blocks[at + 1] if at + 1 < len(page.blocks) else None
        shown = behind.text.splitlines() if behind and behind.info == "text output" else []
        yield block, code, [line.rstrip() for line in shown if line.strip()]


def missing(shown, said):
    """The first line that is not in the output, behind those before it."""
    lines = iter(said.splitlines())
    for wanted in shown:
        pattern = re.compile(".*".join(re.escape(part) for part in wanted.split("…")))
        if not any(pattern.fullmatch(line.rstrip()) for line in lines):
            return wanted
    return None


def folder_of(folder, program):
    (folder / "bin").mkdir()
    (folder / "bin" / "tidegate").symlink_to(pathlib.Path(program).resolve())
    (folder / "work").mkdir()
    (folder / "work" / "docs").symlink_to(source.ROOT / "docs")


def script(folder, blocks, address):
    lines, port = [], str(free_port())
    for at, (block, _, _) in enumerate(blocks):
        text = block.text.replace("localhost:8080", address)
        text = re.sub(r"(?<=127\.0\.0\.1[: ])8000\b", port, text)
        (folder / f"{at}.sh").write_text(text)
        lines.append(f"source ../{at}.sh >../{at}.out 2>../{at}.err; echo $? >../{at}.code")
    return "\n".join(lines)


def end(process):
    """The shell and what it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run(folder, blocks, told):
    """Runs blocks one after the other in one shell."""
    address = told["api_url"].removeprefix("http://")
    path = f"{folder / 'bin'}:{os.environ['TIDEGATE_DOCS_VENV']}/bin:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "app_token": told["app_token"], "device_token": told["device_token"]}
    environment = {key: value for key, value in environment.items() if not key.startswith("TIDEGATE_")}
    command = ["bash", "-c", script(folder, blocks, address)]
    process = subprocess.Popen(command, cwd=folder / "work", env=environment, start_new_session=True)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(PATIENCE_S)
    end(process)


def mistakes(page, program, told):
    """`told` is what a gateway says of itself."""
    blocks = list(runnable(page))
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        folder_of(folder, program)
        run(folder, blocks, told)
        for at, (block, code, shown) in enumerate(blocks):
            where, ended = f"{page.name}:{block.line}", folder / f"{at}.code"
            said = (folder / f"{at}.out").read_text() if (folder / f"{at}.out").exists() else ""
            errors = (folder / f"{at}.err").read_text() if (folder / f"{at}.err").exists() else ""
            if not ended.exists():
                yield f"{where}: did not end: {said}{errors}"
                return
            if int(ended.read_text()) != code:
                yield f"{where}: ended with {ended.read_text().strip()} instead of {code}: {said}{errors}"
            elif (line := missing(shown, said)) is not None:
                yield f"{where}: no line `{line}` in its place in:\n{said}{errors}"


def one(page, program):
    with gateway(program) as told:
        return list(mistakes(page, program, told))


def check(program):
    pages = [page for page in source.all_pages() if any(runnable(page))]
    with concurrent.futures.ThreadPoolExecutor(len(pages)) as pool:
        found = list(pool.map(lambda page: one(page, program), pages))
    count = sum(len(list(runnable(page))) for page in pages)
    return [mistake for some in found for mistake in some], f"{count} blocks on {len(pages)} pages"

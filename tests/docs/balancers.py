"""HAProxy takes the configurations for it that `docs/load-balancers.md` has."""

import pathlib
import subprocess
import tempfile

import source


def haproxy():
    debian = pathlib.Path("/usr/sbin/haproxy")
    return str(debian) if debian.exists() else "haproxy"


def certificate(folder):
    key, cert = folder / "key.pem", folder / "cert.pem"
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost".split()
    subprocess.run([*make, "-keyout", key, "-out", cert], check=True, capture_output=True)
    (folder / "gateway.pem").write_text(cert.read_text() + key.read_text())


def mistakes(page, folder):
    for block in page.blocks:
        if not block.info.startswith("haproxy"):
            continue
        # Its ports and numbers of files need rights that a test may not have.
        text = block.text.replace("/etc/haproxy", str(folder)).replace("bind :443", "bind 127.0.0.1:24443")
        file = folder / "haproxy.cfg"
        file.write_text(text.replace("maxconn 100000", "maxconn 100"))
        run = subprocess.run([haproxy(), "-c", "-f", file], capture_output=True, text=True)
        said = (run.stdout + run.stderr).strip()
        if run.returncode or "WARNING" in said:
            yield f"{page.name}:{block.line}: {said}"


def check():
    page = source.read(source.ROOT / "docs" / "load-balancers.md")
    with tempfile.TemporaryDirectory() as name:
        certificate(pathlib.Path(name))
        found = list(mistakes(page, pathlib.Path(name)))
    return found, f"{sum(1 for block in page.blocks if block.info.startswith('haproxy'))} configurations"

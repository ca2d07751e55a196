"""The key and the tokens that helm makes for trying out are such as the gateway itself makes."""

import base64
import hashlib
import hmac
import json
import pathlib
import subprocess
import tempfile

from chart import CHART, objects_of, text_of


def decoded(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def check(binary):
    mistakes, keys = [], set()
    # Each rendering draws a key: what holds for several holds whatever the digits are.
    for number in range(3):
        items = objects_of(text_of([CHART / "ci" / "tryout-values.yaml"], {"tryout": {"tenant": f"t{number}"}}))
        secret = next(item["stringData"] for item in items if item["metadata"]["name"].endswith("-tryout"))
        keys.add(secret["signing-key.json"])
        mistakes += of_secret(binary, secret)
    if len(keys) != 3:
        mistakes.append("the key is not drawn anew for each installation")
    return mistakes, "keys and tokens that helm makes"


def of_secret(binary, secret):
    mistakes = []
    key = json.loads(secret["signing-key.json"])
    if json.loads(secret["jwks.json"]) != {"keys": [key]}:
        mistakes.append("jwks.json is not the set of the signing key")
    if len(decoded(key["k"])) < 32:
        mistakes.append("the key is too short for HS256")
    for name in ("device-token", "app-token", "smoke-token"):
        head, claims, signature = secret[name].split(".")
        wanted = hmac.new(decoded(key["k"]), f"{head}.{claims}".encode(), hashlib.sha256).digest()
        if decoded(signature) != wanted:
            mistakes.append(f"{name}: its signature does not match the key")
        made, body = json.loads(decoded(head)), json.loads(decoded(claims))
        if (
            made != {"alg": "HS256", "typ": "JWT", "kid": key["kid"]}
            or body["iss"] != "tidegate"
            or body["exp"] <= body["iat"]
        ):
            mistakes.append(f"{name}: not such a token: {made} {body}")
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "key.json"
        file.write_text(secret["signing-key.json"])
        own = subprocess.run([binary, "token", "--sub", "x", "--key", file], capture_output=True, text=True)
    if own.returncode or json.loads(decoded(own.stdout.split(".")[0]))["kid"] != key["kid"]:
        mistakes.append(f"`tidegate token` does not sign by the same name: {own.stdout}{own.stderr}")
    return mistakes

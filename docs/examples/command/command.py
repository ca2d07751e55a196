"""Has a device do something and prints what became of it: python command.py API_URL TOKEN DEVICE [NAME [PARAMS]]

Nothing but the standard library.
"""

import json
import sys
import time
import urllib.error
import urllib.request
import uuid


def send(api, token, device, name, params, ttl_s=60, wait_s=20):
    """The command as it is when it has ended, or after wait_s seconds."""
    body = json.dumps({"name": name, "params": params, "ttl_s": ttl_s, "wait_s": wait_s}).encode()
    headers = {
        "Authorization": f"Bearer {token}",
        "Content-Type": "application/json",
        # One key for one wish: asking again with it never makes the device do it twice.
        "Idempotency-Key": str(uuid.uuid4()),
    }
    for attempt in range(6):
        request = urllib.request.Request(f"{api}/v1/devices/{device}/commands", body, headers, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=wait_s + 10) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            problem = json.load(error)
            if error.code not in (429, 503) or attempt == 5:
                raise SystemExit(f"{problem['status']}: {problem['detail']}")
            time.sleep(int(error.headers.get("Retry-After", 1)))
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            if attempt == 5:
                raise SystemExit(f"no answer: {error}")
            time.sleep(1)


if __name__ == "__main__":
    api, token, device = sys.argv[1:4]
    name = sys.argv[4] if len(sys.argv) > 4 else "blink"
    params = json.loads(sys.argv[5]) if len(sys.argv) > 5 else {"times": 3}
    command = send(api, token, device, name, params)
    print(json.dumps(command))
    sys.exit(0 if command["state"] == "succeeded" else 1)

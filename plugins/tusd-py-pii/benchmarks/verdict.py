"""Measures how long the verdict takes after the last byte, with and without scanning while the bytes arrive.

    python plugins/tusd-py-pii/benchmarks/verdict.py                         600 MB of JSON lines at 60 MB/s
    python plugins/tusd-py-pii/benchmarks/verdict.py --megabytes 2000 --rate 100

A server of its own receives one request at a limited rate, as from a network, once for each way.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).parent))

from speed import rows

from tusd_py.testing.server import ServerProcess

MB = 1_000_000
PIECE = MB // 2
TUS = {"Tus-Resumable": "1.0.0"}


def verdict_after(server: ServerProcess, block: bytes, times: int, rate: float) -> tuple[float, str]:
    """Upload a block so many times over, at so many bytes per second; return the seconds to the verdict, and that."""
    url = urlsplit(server.url)
    client = http.client.HTTPConnection(url.hostname or "", url.port, timeout=600)
    size = len(block) * times
    client.request("POST", url.path, headers={**TUS, "Upload-Length": str(size)})
    location = urlsplit(ended(client).headers["Location"]).path
    headers = {**TUS, "Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
    client.request("PATCH", location, paced(block, times, rate), {**headers, "Content-Length": str(size)})
    ended(client)
    last = time.monotonic()
    while True:
        client.request("GET", location.replace(url.path, "/api/uploads/"))
        status = json.loads(ended(client).text)["status"]
        if status != "checking":
            return time.monotonic() - last, status
        time.sleep(0.02)


class Ended:
    """An answer that has been read."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        """Read it."""
        self.headers, self.text = response.headers, response.read()


def ended(client: http.client.HTTPConnection) -> Ended:
    """Return the answer; ends the program if it is no success."""
    response = client.getresponse()
    answer = Ended(response)
    if response.status >= 300:
        sys.exit(f"{response.status} {answer.text!r}")
    return answer


def paced(block: bytes, times: int, rate: float) -> Iterator[bytes]:
    """Yield a block so many times, in pieces, and not faster than the rate."""
    begun, sent = time.monotonic(), 0
    for _ in range(times):
        for start in range(0, len(block), PIECE):
            piece = block[start : start + PIECE]
            sent += len(piece)
            yield piece
            time.sleep(max(0.0, begun + sent / rate - time.monotonic()))


def main() -> None:
    """Print one line for each way."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--megabytes", type=int, default=600)
    parser.add_argument("--rate", type=float, default=60, help="megabytes per second")
    chosen = parser.parse_args()
    block = "".join(f"{row}\n" for row in itertools.islice(rows(0.02), 40_000)).encode()
    times = -(-chosen.megabytes * MB // len(block))
    for ahead in ("true", "false"):
        with tempfile.TemporaryDirectory() as folder:
            config = Path(folder) / "tusd-py.toml"
            config.write_text(f"[plugins.pii]\nahead = {ahead}\n")
            with ServerProcess("--config", str(config), "--upload-dir", f"{folder}/data") as server:
                seconds, status = verdict_after(server, block, times, chosen.rate * MB)
        print(f"ahead = {ahead}: {len(block) * times / MB:.0f} MB {status} {seconds:.2f} s after the last byte")


if __name__ == "__main__":
    main()

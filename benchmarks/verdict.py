"""How long the verdict takes after the last byte: JSON Lines with all checks, worked on while they arrive or not."""

from __future__ import annotations

import http.client
import json
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from tusd_py.testing.server import ServerProcess

MB = 1_000_000
PIECE = MB // 2
TUS = {"Tus-Resumable": "1.0.0"}
TEXT = "the model reads every row and says which it would rather not have seen because a value is missing"
SCHEMA = {
    "type": "object",
    "required": ["id", "messages"],
    "properties": {
        "id": {"type": "integer"},
        "messages": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["role", "content"],
                "properties": {"role": {"enum": ["user", "assistant"]}, "content": {"type": "string"}},
            },
        },
    },
}
CONFIG = """
[plugins.validate]
schemas = "{schemas}"
rules = [{{ match = "*.jsonl", schema = "chat.json" }}]
ahead = {ahead}
[plugins.pii]
ahead = {ahead}
"""


def rows(size: int) -> bytes:
    """Return conversations of about this size; every fiftieth has an email address."""
    chance, words, lines, held, number = random.Random(5), TEXT.split(), list[bytes](), 0, 0
    while held < size:
        number += 1
        texts = [" ".join(chance.choices(words, k=chance.randint(20, 80))) for _ in range(4)]
        if number % 50 == 0:
            texts[1] += f" write to user{number}@example.org"
        messages = [
            {"role": role, "content": text} for role, text in zip(("user", "assistant") * 2, texts, strict=True)
        ]
        lines.append(json.dumps({"id": number, "messages": messages}).encode() + b"\n")
        held += len(lines[-1])
    return b"".join(lines)


def paced(block: bytes, times: int, rate: float) -> Iterator[bytes]:
    """Yield a block so many times, in pieces, and not faster than so many bytes per second."""
    begun, sent = time.monotonic(), 0
    for _ in range(times):
        for start in range(0, len(block), PIECE):
            piece = block[start : start + PIECE]
            sent += len(piece)
            yield piece
            time.sleep(max(0.0, begun + sent / rate - time.monotonic()))


def asked(client: http.client.HTTPConnection, *request: object) -> tuple[http.client.HTTPResponse, bytes]:
    """Return the answer to a request and its body; ends the program if it is no success."""
    client.request(*request)  # type: ignore[arg-type]
    response = client.getresponse()
    body = response.read()
    if response.status >= 300:
        sys.exit(f"{response.status} {body!r}")
    return response, body


def verdict_after(server: ServerProcess, block: bytes, times: int, rate: float) -> float:
    """Upload a block so many times over, and return the seconds from the last byte to the verdict."""
    url = urlsplit(server.url)
    client = http.client.HTTPConnection(url.hostname or "", url.port, timeout=600)
    size, name = len(block) * times, "filename cm93cy5qc29ubA=="
    created, _ = asked(client, "POST", url.path, None, {**TUS, "Upload-Length": str(size), "Upload-Metadata": name})
    path = urlsplit(created.headers["Location"]).path
    headers = {**TUS, "Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
    asked(client, "PATCH", path, paced(block, times, rate), {**headers, "Content-Length": str(size)})
    last = time.monotonic()
    while True:
        _, body = asked(client, "GET", path.replace(url.path, "/api/uploads/"))
        status = json.loads(body)["status"]
        if status == "accepted":
            return time.monotonic() - last
        if status != "checking":
            sys.exit(f"the upload is {status}: {body!r}")
        time.sleep(0.02)


def run(directory: Path, megabytes: int, rate: float) -> None:
    """Print a line for each way."""
    schemas = directory / "schemas"
    schemas.mkdir()
    (schemas / "chat.json").write_text(json.dumps(SCHEMA))
    block = rows(20 * MB)
    times = -(-megabytes * MB // len(block))
    print(f"\n{len(block) * times / MB:.0f} MB of JSON Lines at {rate:g} MB/s, schema and personal data\n")
    print("| while it arrives | last byte to verdict, s |\n|---|---|")
    for ahead in ("true", "false"):
        config = directory / "tusd-py.toml"
        config.write_text(CONFIG.format(schemas=schemas, ahead=ahead))
        with ServerProcess("--config", str(config), "--upload-dir", str(directory / ahead)) as server:
            print(f"| {ahead} | {verdict_after(server, block, times, rate * MB):.2f} |", flush=True)

"""What one replica has begun another one goes on with; and what nginx makes of requests on their way."""

import asyncio
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from tusd_py.testing.contracts import wait_until
from tusd_py.testing.raw import CHUNKED, OFFSET_STREAM, Answer, Connection, RawClient, chunked
from tusd_py.testing.replicas import Replicas

pytestmark = pytest.mark.needs_nginx

HANDOVER_SECONDS = 0.2
DATA = os.urandom(300_000)
HALF = len(DATA) // 2


async def fastest(attempt: Callable[[], Awaitable[float]]) -> float:
    """Return the first time that is short enough, or the shortest of a few: the machine may be busy."""
    seconds: list[float] = []
    while len(seconds) < 5 and (not seconds or seconds[-1] >= HANDOVER_SECONDS):
        seconds.append(await attempt())
    return min(seconds)


async def ask(client: RawClient, connection: Connection, method: str, url: str) -> tuple[float, Answer]:
    """Send the client's next request, and return how long the answer took."""
    headers = {"Upload-Offset": HALF, "Content-Type": OFFSET_STREAM, "Content-Length": len(DATA) - HALF}
    message = client.message(method, url, headers if method == "PATCH" else {})
    started = time.monotonic()
    await connection.send(message + (DATA[HALF:] if method == "PATCH" else b""))
    answer = await connection.answer(method)
    return time.monotonic() - started, answer


@pytest.mark.parametrize("method", ["HEAD", "PATCH"])
@pytest.mark.parametrize("way", ["from the first to the second", "from the second to the first", "by nginx"])
async def test_stalled_patch(tus: Any, direct: Any, served: Any, record_property: Any, method: str, way: str) -> None:
    """A PATCH that got stuck on one replica hands over to a HEAD or PATCH on the other, with its bytes kept."""
    one, other = {"by nginx": (tus, tus), "from the second to the first": (direct[1], direct[0])}.get(way, direct)

    async def attempt() -> float:
        url = await tus.create(len(DATA))
        first, second = (client.own(url) if client is not tus else url for client in (one, other))
        async with one.connect() as stalled, other.connect() as connection:
            headers = {"Upload-Offset": 0, "Content-Type": OFFSET_STREAM, "Content-Length": len(DATA)}
            await stalled.send(one.message("PATCH", first, headers) + DATA[:HALF])

            async def is_receiving() -> bool:
                return any([await replica.is_receiving() for replica in direct])

            await wait_until(is_receiving)
            seconds, answer = await ask(other, connection, method, second)
            if method == "HEAD" and answer.offset == 0:
                # The last bytes had been read a moment before, so the PATCH counted as healthy, and was left alone.
                assert (await other.patch(second, 0, DATA)).status == 409
                seconds = math.inf
            else:
                assert (answer.status, answer.offset) == ((200, HALF) if method == "HEAD" else (204, len(DATA)))
            assert (await stalled.answer("PATCH")).code == "ERR_UPLOAD_INTERRUPTED"
        if method == "HEAD":
            assert (await other.patch(second, HALF, DATA[HALF:])).status == 204
        assert (await tus.get(url)).body == DATA
        assert len(served(urlsplit(url).path)) == 2
        return seconds

    seconds = await fastest(attempt)
    record_property("handover_milliseconds", round(1000 * seconds))
    assert seconds < HANDOVER_SECONDS


async def test_offset_is_the_same_everywhere(tus: Any, direct: Any) -> None:
    """What one replica has acknowledged the other tells at once, and takes up from there."""
    url = await tus.create(len(DATA))
    for number, start in enumerate(range(0, len(DATA), 30_000)):
        here, there = direct[number % 2], direct[1 - number % 2]
        answer = await here.patch(here.own(url), start, DATA[start : start + 30_000])
        assert (answer.status, answer.offset) == (204, start + 30_000)
        assert await there.offset(there.own(url)) == start + 30_000
    assert (await tus.get(url)).body == DATA


async def test_same_patch_at_both(tus: Any, direct: Any) -> None:
    """Of two PATCHes with the same bytes at the same time only one counts, and nothing is there twice."""
    url = await tus.create(len(DATA))
    answers = await asyncio.gather(*[client.patch(client.own(url), 0, DATA) for client in direct])
    assert sorted(answer.status for answer in answers) in ([204, 409], [204, 423], [409, 423], [423, 423])
    told = await tus.offset(url)
    assert (await tus.patch(url, told, DATA[told:])).status == 204
    assert (await tus.get(url)).body == DATA


async def test_deleted_at_one_is_gone_at_the_other(tus: Any, direct: Any) -> None:
    """An upload that one replica removed is gone for the other, and the object is gone too."""
    url = await tus.create(len(DATA), body=DATA)
    first, second = direct
    assert (await first.get(first.own(url))).body == DATA
    assert (await second.delete(second.own(url))).status == 204
    assert (await first.head(first.own(url))).status == 410


# What nginx adds, and takes away


async def test_location_is_what_the_client_asked(tus: Any) -> None:
    """Location has the host and port of the client's own request, not those inside."""
    answer = await tus.post({"Upload-Length": 1, "Host": "uploads.example:8443"})
    assert answer.headers["Location"].startswith("http://uploads.example:8443/files/")


@pytest.mark.parametrize(
    "headers",
    [
        {"Forwarded": "for=203.0.113.9;host=evil.example;proto=https"},
        {"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.9"},
        {"X-Forwarded-Prefix": "/evil", "X-Forwarded-Port": "666"},
    ],
    ids=["Forwarded", "X-Forwarded-*", "prefix and port"],
)
async def test_what_clients_claim_is_ignored(services: Replicas, tus: Any, headers: Any) -> None:
    """Nobody can make the server point elsewhere, or hide where they come from."""
    answer = await tus.post({"Upload-Length": 1, **headers})
    assert answer.status == 201
    assert answer.headers["Location"].startswith(services.url)

    def lines() -> list[Any]:
        output = "".join(replica.output() for replica in services.replicas)
        lines = [json.loads(line) for line in output.splitlines() if answer.headers["X-Request-ID"] in line]
        return [line for line in lines if line["event"] == "request"]

    await wait_until(lines)
    assert [line["remote"] for line in lines()] == ["127.0.0.1"]


async def test_the_operators_pages_are_not_for_strangers(tus: Any) -> None:
    """Metrics cannot be had through nginx, and the list of uploads only with the token."""
    assert (await tus.request("GET", "/metrics")).status == 404
    assert (await tus.request("GET", "/api/uploads")).status == 403
    assert (await tus.request("GET", "/readyz")).status == 200


async def test_refusals_come_through(tus: Any) -> None:
    """A request that is refused before its body was read is answered with the reason, and not with 502."""
    url = await tus.create(len(DATA))
    for _ in range(5):
        answer = await tus.patch(url, 7, DATA)
        assert (answer.status, answer.offset) == (409, 0)
    wrong = await tus.patch(url, 0, DATA, {"Content-Type": "text/plain"})
    assert wrong.status == 415
    assert (await tus.patch(url, 0, DATA)).status == 204


async def test_bytes_are_not_held_back(tus: Any, direct: Any) -> None:
    """A body reaches the server while it is sent, with a length and in chunks of HTTP."""
    for headers in ({"Content-Length": len(DATA)}, CHUNKED):
        url = await tus.create(len(DATA))
        message = tus.message("PATCH", url, {"Upload-Offset": 0, "Content-Type": OFFSET_STREAM, **headers})
        async with tus.connect() as connection:
            await connection.send(message + (chunked(DATA)[:HALF] if headers is CHUNKED else DATA[:HALF]))

            async def is_receiving() -> bool:
                return any([await replica.is_receiving() for replica in direct])

            await wait_until(is_receiving)
            connection.reset()

        async def is_kept(url: str = url) -> bool:
            return (await tus.offset(url) or 0) > HALF - 100

        await wait_until(is_kept)
        told = await tus.offset(url)
        assert (await tus.patch(url, told, DATA[told:])).status == 204
        assert (await tus.get(url)).body == DATA


async def test_long_headers(tus: Any) -> None:
    """Metadata and a concatenation with as many URLs as the server takes pass nginx."""
    metadata = "a " + "QUJD" * 4000
    url = await tus.create(0, {"Upload-Metadata": metadata})
    assert (await tus.head(url)).headers["Upload-Metadata"] == metadata
    part = await tus.create(2, {"Upload-Concat": "partial"}, b"ab")
    relative = urlsplit(part).path
    joined = await tus.post({"Upload-Concat": "final;" + " ".join([relative] * 800)})
    assert joined.status == 201
    concat = (await tus.head(joined.headers["Location"])).headers["Upload-Concat"]
    assert concat.count(relative) == 800
    assert (await tus.get(joined.headers["Location"])).body == b"ab" * 800


def test_a_replica_that_is_down_is_not_noticed(services: Replicas) -> None:
    """While a replica is down every request succeeds, also one that may not be sent twice."""
    services.replicas[0].kill()
    headers = {"Tus-Resumable": "1.0.0"}
    for number in range(10):
        created = requests.post(services.url, headers={**headers, "Upload-Length": "3"}, timeout=30)
        assert created.status_code == 201, number
        more = {"Upload-Offset": "0", "Content-Type": OFFSET_STREAM}
        answer = requests.patch(created.headers["Location"], data=b"abc", headers={**headers, **more}, timeout=30)
        assert answer.status_code == 204, number


async def test_no_replica_at_all(services: Replicas, tus: Any) -> None:
    """Without any replica the answer is one that clients try again, and all is well when one is back."""
    url = await tus.create(len(DATA), body=DATA[:HALF])
    for replica in services.replicas:
        replica.kill()
    assert (await tus.head(url)).status == 502
    services.replicas[1].start()
    await asyncio.to_thread(services.replicas[1].wait)
    assert await tus.offset(url) == HALF


def test_health_checks_work(services: Replicas) -> None:
    """The check of a replica, run as Compose runs it, succeeds while it is ready, and fails when it is not there."""
    replica = services.replicas[0]
    *_, code = replica.spec["healthcheck"]["test"]
    code = code.replace("127.0.0.1:8080", replica.address)
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
    code = code.replace(replica.address, "127.0.0.1:9")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode != 0

"""Expiration: unfinished uploads go away, and are remembered."""

import asyncio
import os
import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest

from tusd_py.testing.contracts import wait_until
from tusd_py.testing.raw import RawClient
from tusd_py.testing.server import ServerProcess

IMF_FIXDATE = (
    r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d (Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) \d{4} \d\d:\d\d:\d\d GMT"
)


@pytest.fixture(scope="module")
def upload_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("expiring")


@pytest.fixture(scope="module")
def expiring_server(upload_dir: Path) -> Iterator[ServerProcess]:
    with ServerProcess("--upload-dir", str(upload_dir), "--expire-after", "1s", "--remember-ended", "2s") as server:
        yield server


@pytest.fixture
def expiring(expiring_server: ServerProcess) -> RawClient:
    """A client of a server on which uploads expire after a second, and are remembered for two more."""
    return RawClient(expiring_server.url)


async def test_expiry_is_told(tus: RawClient) -> None:
    """POST, PATCH and HEAD tell when an unfinished upload expires, as an IMF-fixdate."""
    created = await tus.post({"Upload-Length": 5})
    url = created.headers["Location"]
    for answer in (created, await tus.patch(url, 0, b"abc"), await tus.head(url)):
        expires = answer.headers["Upload-Expires"]
        assert re.fullmatch(IMF_FIXDATE, expires)
        left = parsedate_to_datetime(expires) - datetime.now(UTC)
        assert timedelta(days=7, minutes=-1) < left <= timedelta(days=7)


async def test_complete_uploads_do_not_expire(tus: RawClient) -> None:
    """A complete upload stays, and nothing else is told; a partial one is a step and still goes."""
    url = await tus.create(3)
    assert "Upload-Expires" not in (await tus.patch(url, 0, b"abc")).headers
    assert "Upload-Expires" not in (await tus.head(url)).headers
    partial = await tus.create(3, {"Upload-Concat": "partial"}, b"abc")
    assert "Upload-Expires" in (await tus.head(partial)).headers


async def test_expired(expiring: RawClient, upload_dir: Path) -> None:
    """An upload that got no bytes for too long is removed by itself, told to be gone, and at last forgotten."""
    url = await expiring.create(5, body=b"abc")
    path = upload_dir / url.rpartition("/")[2]
    assert path.exists()
    await wait_until(lambda: not path.exists())
    assert not path.with_suffix(".info").exists()
    for answer in (await expiring.head(url), await expiring.patch(url, 3, b"de"), await expiring.delete(url)):
        assert (answer.status, answer.offset) == (410, None)
    assert (await expiring.get(url)).body == b"ERR_UPLOAD_GONE: the upload was expired\n"

    async def forgotten() -> bool:
        return (await expiring.head(url)).status == 404

    await wait_until(forgotten)


async def test_expired_before_it_is_removed(expiring: RawClient) -> None:
    """Time decides, not the housekeeping: an upload whose time is over cannot be continued."""
    url = await expiring.create(5, body=b"abc")
    await asyncio.sleep(1.01)  # time has to pass
    answer = await expiring.patch(url, 3, b"de")
    assert (answer.status, answer.code) == (410, "ERR_UPLOAD_GONE")


async def test_expiry_slides(expiring: RawClient) -> None:
    """Every byte moves the time: an upload that goes on outlives the time it was given at first."""
    created = await expiring.post({"Upload-Length": 1000})
    url, last, offset = created.headers["Location"], created.headers["Upload-Expires"], 0
    moves, started = 0, time.monotonic()
    while moves < 2:
        await asyncio.sleep(0.2)  # time has to pass
        answer = await expiring.patch(url, offset, b"a")
        assert answer.status == 204
        offset += 1
        moves += answer.headers["Upload-Expires"] != last
        last = answer.headers["Upload-Expires"]
    assert time.monotonic() - started > 1


async def test_running_upload_does_not_expire(expiring: RawClient) -> None:
    """Nor does an upload expire while its bytes arrive, however slowly."""
    url = await expiring.create(8)
    async with expiring.connect() as connection:
        await connection.send(expiring.patch_message(url, 0, headers={"Content-Length": 8}))
        for _ in range(8):
            await asyncio.sleep(0.2)  # the client is slow
            await connection.send(b"a")
        assert (await connection.answer()).status == 204
    assert (await expiring.get(url)).body == b"a" * 8


async def test_partial_uploads_expire(expiring: RawClient, upload_dir: Path) -> None:
    """Parts that nobody put together are removed even if they are complete; what was made of them stays."""
    parts = [await expiring.create(1, {"Upload-Concat": "partial"}, byte) for byte in (b"a", b"b")]
    answer = await expiring.post({"Upload-Concat": "final;" + " ".join(parts)})
    paths = [upload_dir / url.rpartition("/")[2] for url in parts]
    await wait_until(lambda: not any(map(os.path.exists, paths)))
    content = await expiring.get(answer.headers["Location"])
    assert (content.status, content.body) == (200, b"ab")


async def test_without_expiration(server_with: Callable[..., ServerProcess]) -> None:
    """With no time set, uploads stay and nothing is told."""
    tus = RawClient(server_with("--expire-after", "0").url)
    answer = await tus.post({"Upload-Length": 5})
    assert "Upload-Expires" not in answer.headers
    assert "expiration" not in (await tus.request("OPTIONS")).headers["Tus-Extension"].split(",")
    assert (await tus.patch(answer.headers["Location"], 0, b"abc")).status == 204

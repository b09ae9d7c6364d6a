"""A server with its bytes on S3, where calls fail, S3 vanishes and processes die: real servers, black box."""

import asyncio
import hashlib
import json
import random
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tusd_py.testing.contracts import wait_until
from tusd_py.testing.faults import Fault, FaultProxy
from tusd_py.testing.raw import OFFSET_STREAM, RawClient
from tusd_py.testing.redis import RedisProcess
from tusd_py.testing.s3 import BUCKET, S3Server, SeaweedServer
from tusd_py.testing.server import ServerProcess

MIB = 1024 * 1024


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[FaultProxy]:
    """What stands between the server and S3."""
    with FaultProxy(s3.endpoint) as proxy:
        yield proxy


@pytest.fixture
def prefix() -> str:
    """Where this test's objects are."""
    return secrets.token_hex(8)


@pytest.fixture
def on_s3(proxy: FaultProxy, prefix: str) -> tuple[str, ...]:
    """The options of a server behind whose back calls can be broken."""
    return ("--store", f"s3://{BUCKET}/{prefix}", "--s3-endpoint", proxy.endpoint, "--s3-timeout", "2s")


def peak_memory(server: ServerProcess) -> int:
    """The most memory that the server's process ever had."""
    status = Path(f"/proc/{server.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


async def first_sweep(proxy: FaultProxy) -> None:
    """Wait until the server has tidied up for the first time, so that all further calls are those of requests."""
    await wait_until(lambda: proxy.count()["ListMultipartUploads"] and proxy.calls[-1].operation == "ListObjects")


def id_of(url: str) -> str:
    return url.rpartition("/")[2]


async def test_calls(start: Any, on_s3: tuple[str, ...], proxy: FaultProxy, s3: S3Server, prefix: str) -> None:
    """24 requests of 1 MiB cost 40 calls at most, with creation and completion; asking for the offset costs none."""
    client = RawClient(start(*on_s3).url)
    await first_sweep(proxy)
    data = random.Random(1).randbytes(24 * MIB)
    before = len(proxy.calls)
    url = await client.create(len(data))
    for offset in range(0, len(data), MIB):
        assert (await client.patch(url, offset, data[offset : offset + MIB])).offset == offset + MIB
        calls = len(proxy.calls)
        assert await client.offset(url) == offset + MIB
        assert len(proxy.calls) == calls
    assert len(proxy.calls) - before <= 40, proxy.count()
    assert hashlib.sha256(s3.read(f"{prefix}/{id_of(url)}")).digest() == hashlib.sha256(data).digest()
    assert s3.keys(f"{prefix}/{id_of(url)}.") == [f"{prefix}/{id_of(url)}.info"]


async def test_one_large_request(start: Any, on_s3: tuple[str, ...], proxy: FaultProxy) -> None:
    """A request of several parts costs one call for each, and few besides."""
    client = RawClient(start(*on_s3).url)
    await first_sweep(proxy)
    data = random.Random(1).randbytes(40 * MIB)
    before = proxy.count()
    url = await client.create(len(data), body=data)
    done = proxy.count() - before
    assert done == {"CreateMultipartUpload": 1, "PutObject": 2, "UploadPart": 5, "CompleteMultipartUpload": 1}
    assert (await client.get(url)).body == data


@pytest.mark.parametrize("size", [36 * MIB, 40 * MIB])
async def test_part_that_fails_once(start: Any, on_s3: tuple[str, ...], proxy: FaultProxy, size: int) -> None:
    """One part is refused; the client is told, goes on from the offset before it, and the bytes are right."""
    client = RawClient(start(*on_s3).url)
    data = random.Random(2).randbytes(size)
    url = await client.create(len(data))
    proxy.once(Fault("refuse", 400, "BadRequest"), "UploadPart", part=2)
    answer = await client.patch(url, 0, data)
    assert (answer.status, answer.code) == (503, "ERR_STORE_UNAVAILABLE")
    assert "Retry-After" in answer.headers
    assert "BadRequest" not in answer.body.decode()
    offset = await client.offset(url)
    assert offset == 8 * MIB
    assert (await client.patch(url, offset, data[offset:])).offset == size
    assert (await client.get(url)).body == data


async def test_aborted_behind_the_server(start: Any, on_s3: tuple[str, ...], s3: S3Server, prefix: str) -> None:
    """A multipart upload that a lifecycle rule aborted is told as 410 for good, never as complete."""
    client = RawClient(start(*on_s3).url)
    data = random.Random(3).randbytes(20 * MIB)
    url = await client.create(len(data))
    assert (await client.patch(url, 0, data[: 10 * MIB])).status == 204
    (upload,) = s3.call("list_multipart_uploads", Prefix=prefix)["Uploads"]
    s3.call("abort_multipart_upload", Key=upload["Key"], UploadId=upload["UploadId"])
    assert (await client.patch(url, 10 * MIB, data[10 * MIB :])).status == 410
    assert (await client.head(url)).status == 410
    assert (await client.get(url)).status == 410


async def test_complete_that_succeeded_unheard(start: Any, on_s3: tuple[str, ...], proxy: FaultProxy) -> None:
    """S3 completes the object and answers 500 for it; HEAD finds the real outcome."""
    client = RawClient(start(*on_s3).url)
    data = random.Random(4).randbytes(20 * MIB)
    url = await client.create(len(data))
    proxy.always(Fault("lose", 500, "InternalError"), "CompleteMultipartUpload")
    assert (await client.patch(url, 0, data)).status == 503
    proxy.heal()
    assert await client.offset(url) == len(data)
    assert (await client.get(url)).body == data


@pytest.mark.parametrize("fault", [Fault("refuse", 503), Fault("hang"), Fault("reset")])
async def test_storage_away(start: Any, on_s3: tuple[str, ...], proxy: FaultProxy, fault: Fault) -> None:
    """While S3 does not work, uploads pause with 503; afterwards they go on where they were."""
    client = RawClient(start(*on_s3, "--s3-timeout", "0.5s").url)
    data = random.Random(5).randbytes(3 * MIB)
    url = await client.create(len(data))
    assert (await client.patch(url, 0, data[:MIB])).status == 204
    proxy.always(fault)
    answer = await client.patch(url, MIB, data[MIB:])
    assert (answer.status, answer.code) == (503, "ERR_STORE_UNAVAILABLE")
    assert "Retry-After" in answer.headers
    assert (await client.post({"Upload-Length": 5})).status == 503
    assert await client.offset(url) == MIB
    proxy.heal()
    assert (await client.patch(url, MIB, data[MIB:])).offset == len(data)
    assert (await client.get(url)).body == data


async def test_not_ready(start: Any, on_s3: tuple[str, ...], proxy: FaultProxy) -> None:
    """As soon as S3 has refused a call the server is not ready, and its log says why in words for the operator."""
    server: ServerProcess = start(*on_s3)
    client = RawClient(server.url)
    for code, words in (
        ("AccessDenied", "access is denied"),
        ("NoSuchBucket", "the bucket does not exist"),
        ("RequestTimeTooSkewed", "the clock of this machine"),
    ):
        proxy.always(Fault("refuse", 403, code))
        assert (await client.post({"Upload-Length": 5})).status == 503
        assert (await client.request("GET", "/readyz")).status == 503
        assert f"the bucket {BUCKET} cannot be used: {words}" in server.output()
        proxy.heal()
        assert (await client.request("GET", "/readyz")).status == 200


async def test_object_that_vanished(start: Any, on_s3: tuple[str, ...], s3: S3Server, prefix: str) -> None:
    """Downloading what somebody deleted from the bucket is 410, not an empty file."""
    client = RawClient(start(*on_s3).url)
    url = await client.create(5, body=b"01234")
    s3.call("delete_object", Key=f"{prefix}/{id_of(url)}")
    answer = await client.get(url)
    assert (answer.status, answer.code) == (410, "ERR_UPLOAD_GONE")


@pytest.mark.parametrize("seed", range(3))
async def test_killed_at_random(start: Any, on_s3: tuple[str, ...], s3: S3Server, prefix: str, seed: int) -> None:
    """However often the server is killed, no acknowledged byte is lost, the object is right, nothing is left over."""
    chance = random.Random(seed)
    server: ServerProcess = start(*on_s3, "--s3-part-size", "5MiB", "--progress-interval", "0.05s")
    client = RawClient(server.url)
    data = chance.randbytes(30 * MIB)
    url = await client.create(len(data))
    acknowledged = 0
    for _ in range(4):
        async with client.connect() as connection:
            headers = {"Upload-Offset": acknowledged, "Content-Type": OFFSET_STREAM, "Content-Length": len(data)}
            stop = min(len(data), acknowledged + chance.randrange(12 * MIB))
            message = client.message("PATCH", url, {**headers, "Content-Length": len(data) - acknowledged})
            await connection.send(message + data[acknowledged:stop])
            await asyncio.sleep(chance.random() * 0.3)
            server.kill()
        server.restart()
        offset = await client.offset(url)
        assert offset is not None
        assert offset >= acknowledged
        acknowledged = offset
        if acknowledged < len(data):
            step = chance.randrange(1, 3 * MIB)
            answer = await client.patch(url, acknowledged, data[acknowledged : acknowledged + step])
            assert answer.status == 204
            assert answer.offset is not None
            acknowledged = answer.offset
    if acknowledged < len(data):
        assert (await client.patch(url, acknowledged, data[acknowledged:])).status == 204
    found = s3.read(f"{prefix}/{id_of(url)}")
    assert hashlib.sha256(found).digest() == hashlib.sha256(data).digest()
    assert s3.keys(f"{prefix}/{id_of(url)}.") == [f"{prefix}/{id_of(url)}.info"]
    assert s3.multiparts(prefix) == []


async def test_records_come_back(start: Any, on_s3: tuple[str, ...], tmp_path: Path) -> None:
    """A second server with other records finds every upload at the offset that was acknowledged."""
    first = RawClient(start(*on_s3).url)
    data = random.Random(6).randbytes(20 * MIB)
    url = await first.create(len(data), {"Upload-Metadata": "filename w5xiZXI="})
    await first.patch(url, 0, data[: 9 * MIB])
    whole = await first.create(5, body=b"01234")
    second = RawClient(start(*on_s3, data=tmp_path / "other").url)
    head = await second.head(second.url + id_of(url))
    assert (head.offset, head.headers["Upload-Metadata"]) == (9 * MIB, "filename w5xiZXI=")
    assert (await second.get(second.url + id_of(whole))).body == b"01234"
    assert (await second.patch(second.url + id_of(url), 9 * MIB, data[9 * MIB :])).offset == len(data)
    assert (await second.get(second.url + id_of(url))).body == data


async def test_redis_forgets_what_was_last(
    start: Any, on_s3: tuple[str, ...], start_redis: Callable[..., RedisProcess]
) -> None:
    """No offset goes back, and no end is undone, if Redis comes back without its last moments."""
    redis = start_redis(save=True)
    options = (*on_s3, "--s3-part-size", "5MiB", "--redis", redis.url)
    clients = [RawClient(start(*options).url) for _ in range(2)]
    data = random.Random(5).randbytes(11 * MIB)
    begun, ended, small = [await clients[0].create(len(data), body=data[:MIB]) for _ in range(3)]
    with redis.forgetting():
        assert (await clients[0].patch(begun, MIB, data[MIB : 7 * MIB])).offset == 7 * MIB
        assert (await clients[0].patch(small, MIB, data[MIB : 2 * MIB])).offset == 2 * MIB
        assert (await clients[0].patch(ended, MIB, data[MIB:])).offset == len(data)
        unknown = await clients[0].create(len(data), body=data[: 6 * MIB])
    for url, offset in ((begun, 7 * MIB), (small, 2 * MIB), (ended, len(data)), (unknown, 6 * MIB)):
        for client in clients:
            assert await client.offset(client.url + id_of(url)) == offset
        if offset < len(data):
            assert (await clients[1].patch(clients[1].url + id_of(url), offset, data[offset:])).offset == len(data)
        assert (await clients[0].get(url)).body == data


async def test_reaper(start: Any, on_s3: tuple[str, ...], s3: S3Server, prefix: str) -> None:
    """What belongs to no upload is gone after the grace time; an upload that the storage lost is told, others stay."""
    orphan = secrets.token_hex(16)
    s3.call("create_multipart_upload", Key=f"{prefix}/{orphan}")
    s3.call("put_object", Key=f"{prefix}/{orphan}.tail/000000000000000-00000000-ab", Body=b"x")
    client = RawClient(start(*on_s3, "--orphan-grace", "1s").url)
    url, lost = [await client.create(20 * MIB, body=bytes(9 * MIB)) for _ in range(2)]
    (upload,) = s3.call("list_multipart_uploads", Prefix=f"{prefix}/{id_of(lost)}")["Uploads"]
    s3.call("abort_multipart_upload", Key=upload["Key"], UploadId=upload["UploadId"])
    await wait_until(lambda: s3.multiparts(prefix) == [f"{prefix}/{id_of(url)}"])
    await wait_until(lambda: not s3.keys(f"{prefix}/{orphan}"))

    async def is_told() -> bool:
        return (await client.head(lost)).status == 410

    await wait_until(is_told)  # so the sweep has been that finds both uploads old enough
    found = await client.request("GET", f"/api/uploads/{id_of(lost)}")
    assert json.loads(found.body)["status"] == "lost"
    assert await client.offset(url) == 9 * MIB
    assert (await client.patch(url, 9 * MIB, bytes(11 * MIB))).offset == 20 * MIB


async def test_expired_and_terminated(start: Any, on_s3: tuple[str, ...], s3: S3Server, prefix: str) -> None:
    """Of an upload that is terminated or that expires nothing is left in the bucket."""
    client = RawClient(start(*on_s3, "--expire-after", "1s").url)
    gone = await client.create(20 * MIB, body=bytes(9 * MIB))
    expired = await client.create(20 * MIB, body=bytes(9 * MIB))
    assert (await client.delete(gone)).status == 204
    await wait_until(lambda: not [key for key in s3.keys(prefix) if not key.endswith(".tusd-py")])
    assert s3.multiparts(prefix) == []
    assert {(await client.head(url)).status for url in (gone, expired)} == {410}


PLUGIN = """
import pluggy
from tusd_py.errors import Reject
from tusd_py.models import Changes

hookimpl = pluggy.HookimplMarker("tusd_py")

@hookimpl
async def inspect_head(upload, head):
    if head.startswith(b"bad"):
        raise Reject("bad")

@hookimpl
async def pre_finish(upload, content):
    data = b"".join([chunk async for chunk in content.chunks(0, content.size)])
    if data.endswith(b"bad"):
        raise Reject("bad")

@hookimpl
async def pre_create(request, upload):
    return Changes(path="in/" + upload.metadata["filename"]) if "filename" in upload.metadata else None
"""


async def test_plugins(start: Any, on_s3: tuple[str, ...], s3: S3Server, prefix: str, tmp_path: Path) -> None:
    """Plugins see first bytes and the whole, choose keys, and what they refuse is removed from the bucket."""
    (tmp_path / "choosy.py").write_text(PLUGIN)
    client = RawClient(start(*on_s3, "--plugin", str(tmp_path / "choosy.py")).url)
    url = await client.create(10 * MIB)
    assert (await client.patch(url, 0, b"ba")).status == 204
    assert (await client.patch(url, 2, b"d" + bytes(9 * MIB))).status == 422
    url = await client.create(10 * MIB)
    assert (await client.patch(url, 0, bytes(10 * MIB - 3) + b"bad")).status == 422
    assert (await client.head(url)).status == 410
    assert [key for key in s3.keys(prefix) if not key.endswith(".tusd-py")] == []
    await client.create(9 * MIB, {"Upload-Metadata": "filename YS50eHQ="}, bytes(9 * MIB))
    assert s3.read(f"{prefix}/in/a.txt") == bytes(9 * MIB)


@pytest.mark.timeout(300)
async def test_memory_of_one_large_request(start: Any, s3: S3Server, prefix: str) -> None:
    """A request of 1 GiB passes through less than 200 MiB of memory."""
    server: ServerProcess = start("--store", f"s3://{BUCKET}/{prefix}", "--s3-endpoint", s3.endpoint)
    client = RawClient(server.url)
    size, piece = 1024 * MIB, random.Random(7).randbytes(MIB)
    url = await client.create(size)
    async with client.connect() as connection:
        headers = {"Upload-Offset": 0, "Content-Type": OFFSET_STREAM, "Content-Length": size}
        await connection.send(client.message("PATCH", url, headers))
        for _ in range(size // MIB):
            await connection.send(piece)
        assert (await connection.answer("PATCH", timeout=120)).offset == size
    assert peak_memory(server) < 200 * MIB
    s3.call("delete_object", Key=f"{prefix}/{id_of(url)}")


async def test_killed_storage(start: Any, tmp_path: Path) -> None:
    """S3 itself is killed and comes back; the upload goes on."""
    with SeaweedServer(tmp_path / "weed") as storage:
        client = RawClient(start(*storage.options("x"), "--s3-timeout", "1s").url)
        data = random.Random(8).randbytes(20 * MIB)
        url = await client.create(len(data))
        assert (await client.patch(url, 0, data[: 10 * MIB])).status == 204
        storage.kill()
        assert (await client.patch(url, 10 * MIB, data[10 * MIB :])).status == 503
        assert await client.offset(url) == 10 * MIB
        storage.start()

        async def goes_on() -> bool:
            # A storage that has just come back may still refuse to write; clients try again.
            offset = await client.offset(url)
            assert offset is not None
            answer = await client.patch(url, offset, data[offset:])
            assert answer.status in (204, 503), answer
            return answer.status == 204

        await wait_until(goes_on, timeout=60)
        assert (await client.get(url)).body == data

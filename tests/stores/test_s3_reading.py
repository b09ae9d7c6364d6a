"""What reads objects by ranges: `open`, and what another process gets of it."""

import asyncio
import contextlib
import errno
import io
import logging
import pickle
import random
import secrets
import ssl
import subprocess
import sys
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

import msgspec
import pytest

from tusd_py.body import Body
from tusd_py.content import StoredObject
from tusd_py.models import Content, Upload
from tusd_py.ranges import RangeFile, Unreachable
from tusd_py.stores.s3 import S3Store, Settings
from tusd_py.stores.s3_client import Bucket, Options
from tusd_py.testing.contracts import new_upload
from tusd_py.testing.contracts.store import no_progress
from tusd_py.testing.faults import Fault, FaultProxy
from tusd_py.testing.s3 import BUCKET, S3Server

MIB = 1024 * 1024
DATA = random.Random(1).randbytes(6 * MIB)


@pytest.fixture(scope="module")
def proxy(s3: S3Server) -> Iterator[FaultProxy]:
    """What stands between the readers and S3."""
    with FaultProxy(s3.endpoint) as proxy:
        yield proxy


@pytest.fixture
async def store(proxy: FaultProxy) -> AsyncIterator[S3Store]:
    """A store with a prefix of its own."""
    proxy.heal()
    store = S3Store(BUCKET, f"{secrets.token_hex(8)}/", Options(endpoint=proxy.endpoint, path_style=True), Settings())
    await store.open()
    yield store
    await store.aclose()


async def stored(store: S3Store, data: bytes = DATA) -> Upload:
    """Return a complete upload."""
    upload = await store.create(new_upload(length=len(data)))
    return await store.finish(await store.append(upload, Body.of([data]), no_progress))


async def shared(store: S3Store, upload: Upload) -> StoredObject:
    """Return what another process gets."""
    content = store.content(upload)
    answer = await asyncio.to_thread(lambda: pickle.loads(pickle.dumps(content)))
    assert isinstance(answer, StoredObject)
    return answer


def impatient(content: StoredObject, *waits: float) -> RangeFile:
    """Open it for somebody who waits so long between attempts."""
    return RangeFile(msgspec.structs.replace(content.address, waits=waits))


def read_all(content: Content | StoredObject) -> bytes:
    with content.open() as file:
        return file.read()


async def test_what_is_asked_for_grows(store: S3Store, proxy: FaultProxy) -> None:
    """Who reads from the start to the end asks a few times, in memory that does not grow with the file."""
    content = await shared(store, await stored(store, DATA * 2))
    before = proxy.count()["GetObject"]

    def read() -> tuple[bool, int]:
        tracemalloc.start()
        with content.open() as file:
            is_it = all(file.read(MIB // 2) == DATA[at : at + MIB // 2] for at in [*range(0, 6 * MIB, MIB // 2)] * 2)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return is_it, peak

    is_it, peak = await asyncio.to_thread(read)
    assert is_it
    # 1/4 + 1 + 4 + the rest.
    assert proxy.count()["GetObject"] - before == 4
    # What the proxy has in this process counts too.
    assert peak < 8 * MIB


async def test_any_place(store: S3Store) -> None:
    """What is read after a seek, be it near or far, is what is there."""
    content = store.content(await stored(store))
    chance = random.Random(2)

    def read() -> None:
        with content.open() as file:
            for _ in range(20):
                near = file.tell() + chance.randrange(-400_000, 400_000)
                at = max(0, chance.choice([near, chance.randrange(len(DATA) + 1000)]))
                size = chance.choice([1, 1000, 300_000])
                assert file.seek(at) == at
                assert file.read(size) == DATA[at : at + size]

    await asyncio.to_thread(read)


async def test_connections_that_break(store: S3Store, proxy: FaultProxy) -> None:
    """Reading goes on where it was if connections break off, are refused a moment, or end early again and again."""
    content = await shared(store, await stored(store))
    faults = iter([Fault("cut", bytes=100_000), Fault("refuse"), None, Fault("cut"), Fault("cut", bytes=MIB)])
    proxy.choose = lambda call: next(faults, None)
    assert await asyncio.to_thread(io.BufferedReader(impatient(content, 0, 0)).read) == DATA
    assert next(faults, "all came to pass") == "all came to pass"


@pytest.mark.parametrize("fault", [Fault("refuse"), Fault("cut", bytes=0)], ids=["refused", "cut"])
async def test_storage_that_does_not_answer(store: S3Store, proxy: FaultProxy, fault: Fault) -> None:
    """After a few attempts that brought nothing it is told what is wrong, in an error of its own."""
    content = await shared(store, await stored(store))
    before = proxy.count()["GetObject"]
    proxy.always(fault, "GetObject")
    with pytest.raises(Unreachable, match="the storage does not answer") as failure:
        await asyncio.to_thread(impatient(content, 0, 0).read, 1)
    assert proxy.count()["GetObject"] - before == 3
    again = pickle.loads(pickle.dumps(failure.value))
    assert (type(again), str(again)) == (Unreachable, str(failure.value))


async def test_another_object(store: S3Store) -> None:
    """If the object is replaced while it is read, that is an error, and never a mixture of both."""
    upload = await stored(store)
    contents = [store.content(upload), await shared(store, upload)]
    files = [await asyncio.to_thread(content.open) for content in contents]
    for file in files:
        assert await asyncio.to_thread(file.read, 1000) == DATA[:1000]
    await store.bucket.call("put_object", Key=store.names.key(upload), Body=bytes(len(DATA)))
    for file in files:
        with file, pytest.raises(OSError, match="not the one any more") as failure:
            await asyncio.to_thread(file.read)
        assert failure.value.errno == errno.ESTALE


async def test_no_object(store: S3Store) -> None:
    """An upload that was removed cannot be read any more."""
    upload = await stored(store, b"01234")
    content = await shared(store, upload)
    await store.remove(upload)
    with pytest.raises(FileNotFoundError, match="no longer has"):
        await asyncio.to_thread(read_all, content)


@pytest.mark.one_server
async def test_signature_that_is_no_longer_good(store: S3Store) -> None:
    """A worker signs anew when S3 does not take a signature any more; another process is told."""
    good = (await shared(store, await stored(store, b"01234"))).address
    expired = msgspec.structs.replace(good, url=good.url.replace("X-Amz-Expires=3600", "X-Amz-Expires=3599"))
    assert expired != good
    with pytest.raises(Unreachable, match="may have expired"):
        await asyncio.to_thread(RangeFile(expired).read)
    assert await asyncio.to_thread(RangeFile(expired, lambda: good).read) == b"01234"
    with pytest.raises(Unreachable, match="may have expired"):
        await asyncio.to_thread(RangeFile(expired, lambda: expired).read)


async def test_how_long_and_for_what(proxy: FaultProxy) -> None:
    """A signature is for one object, to read it, and is good for as long as the options say, and a week at most."""
    for seconds, expires in ((60, "60"), (10**9, "604800")):
        bucket = Bucket(BUCKET, Options(endpoint=proxy.endpoint, path_style=True, signed_for=seconds))
        await bucket.open()
        url = urlsplit((await bucket.address("a/b", 5, None)).url)
        assert url.path == f"/{BUCKET}/a/b"
        assert f"X-Amz-Expires={expires}" in url.query.split("&")
        await bucket.aclose()


async def test_secret(store: S3Store, proxy: FaultProxy, caplog: pytest.LogCaptureFixture) -> None:
    """The signature is in no representation, log or error."""
    caplog.set_level(logging.DEBUG)
    content = await shared(store, await stored(store))
    secret = dict(part.split("=") for part in urlsplit(content.address.url).query.split("&"))["X-Amz-Signature"]
    assert len(secret) == 64
    told = [repr(content), repr(content.address), str(content), f"{content.__rich_repr__()}"]  # type: ignore[attr-defined]
    told += [f"{content.address.__rich_repr__()}", repr(content.open()), repr(store.content(await stored(store, b"")))]
    proxy.once(Fault("cut"), "GetObject")
    assert await asyncio.to_thread(read_all, content) == DATA
    proxy.always(Fault("refuse"), "GetObject")
    with pytest.raises(Unreachable) as failure:
        await asyncio.to_thread(impatient(content).read, 1)
    told += [repr(failure.value), caplog.text]
    assert [text[:100] for text in told if secret in text] == []


async def test_event_loop(store: S3Store) -> None:
    """On the server's event loop nothing is opened, for that would wait for itself."""
    content = store.content(await stored(store, b"01234"))
    for work in (content.open, lambda: pickle.dumps(content), lambda: content.on_disk().__enter__()):
        with pytest.raises(RuntimeError, match="in a thread"):
            work()


@pytest.mark.one_server
async def test_proxy_of_the_environment(s3: S3Server, store: S3Store, proxy: FaultProxy) -> None:
    """A proxy that the environment names is asked."""
    options = Options(endpoint=s3.endpoint, path_style=True)
    direct = S3Store(BUCKET, store.prefix, options, Settings())
    await direct.open()
    pickled = await asyncio.to_thread(pickle.dumps, direct.content(await stored(direct)))
    await direct.aclose()
    before = proxy.count()["GetObject"]
    script = "import pickle, sys; sys.stdout.buffer.write(pickle.load(sys.stdin.buffer).open().read())"
    environment = {"PYTHONPATH": ":".join(sys.path), "http_proxy": proxy.endpoint}
    command = [sys.executable, "-c", script]
    run = subprocess.run
    read = await asyncio.to_thread(run, command, input=pickled, env=environment, capture_output=True, check=True)
    assert read.stdout == DATA
    assert proxy.count()["GetObject"] - before == 4


@pytest.mark.needs_openssl
@pytest.mark.one_server
async def test_tls(s3: S3Server, store: S3Store, certificate: dict[str, str]) -> None:
    """Over TLS the object is read from a server for which the right people vouch, and from no other."""
    host, port = (urlsplit(s3.endpoint).hostname, urlsplit(s3.endpoint).port)

    async def passed_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection(host, port)
        pipes = [asyncio.create_task(piped(*pair)) for pair in ((reader, up_writer), (up_reader, writer))]
        await asyncio.wait(pipes, return_when=asyncio.FIRST_COMPLETED)
        for pipe in pipes:
            pipe.cancel()
        up_writer.close()
        writer.close()

    upload = await stored(store)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate["cert"], certificate["key"])
    async with await asyncio.start_server(passed_on, "127.0.0.1", 0, ssl=context) as front:
        endpoint = f"https://localhost:{front.sockets[0].getsockname()[1]}"
        bucket = Bucket(BUCKET, Options(endpoint=endpoint, path_style=True))
        await bucket.open()
        address = await bucket.address(store.names.key(upload), len(DATA), upload.storage["etag"])
        await bucket.aclose()
        known = StoredObject("s3://", msgspec.structs.replace(address, ca_file=certificate["cert"]))
        assert await asyncio.to_thread(read_all, known) == DATA
        with pytest.raises(Unreachable, match="SSLCertVerificationError"):
            await asyncio.to_thread(impatient(StoredObject("s3://", address)).read, 1)


async def piped(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while block := await source.read(MIB):
            target.write(block)
            await target.drain()

"""A directory of tusd's can be opened, uploads in flight included, and tusd can read ours.

The manifests in `tusd/` are as tusd's file store writes them: tusd 2 with absolute and relative paths, and tusd 1.
"""

import asyncio
import base64
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tusd_py.testing.raw import RawClient
from tusd_py.testing.server import ServerProcess

DATA = bytes(range(250)) * 4
BEGUN = "0b1ce2d5f6a7480980a1b2c3d4e5f607"
DEFERRED = "1c2df3e6a7b8491a91b2c3d4e5f60718"
FIRST_PART = "2d3ea4f7b8c94a2ba2c3d4e5f6071829"
SECOND_PART = "3e4fb5a8c9da4b3cb3d4e5f60718293a"
JOINED = "4f50c6b9daeb4c4dc4e5f60718293a4b"
OF_TUSD_1 = "5061d7caebfc4d5ed5f60718293a4b5c"


# Like JOINED, but its parts were removed; and like BEGUN, but a hook of tusd's put the bytes elsewhere.
JOINED_ALONE = "joined-and-without-parts"
ELSEWHERE = "bytes-elsewhere"


def copied(data: Path, source: str, target: str, **changes: Any) -> None:
    """Give an upload another id, and change its manifest."""
    manifest = json.loads((data / f"{source}.info").read_text().replace(source, target))
    (data / f"{target}.info").write_text(json.dumps(manifest | changes))
    (data / target).write_bytes((data / source).read_bytes())


@pytest.fixture(scope="module")
def tusd_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory as tusd left it."""
    data = tmp_path_factory.mktemp("tusd") / "data"
    shutil.copytree(Path(__file__).parent / "tusd", data)
    for upload_id, stored in {
        BEGUN: DATA[:300],
        DEFERRED: DATA[:200],
        FIRST_PART: DATA[:400],
        SECOND_PART: DATA[400:],
        JOINED: DATA,
        OF_TUSD_1: DATA[:100],
    }.items():
        (data / upload_id).write_bytes(stored)
    copied(data, JOINED, JOINED_ALONE, PartialUploads=["gone", "gone-too"])
    copied(data, BEGUN, ELSEWHERE, Storage={"Path": "/srv/tusd/outside", "InfoPath": "/srv/tusd/data/x.info"})
    (data / ELSEWHERE).unlink()
    (data.parent / "outside").write_bytes(DATA[:300])
    return data


@pytest.fixture(scope="module")
def server(tusd_data: Path) -> Iterator[ServerProcess]:
    """Our server on that directory."""
    with ServerProcess("--upload-dir", str(tusd_data), "--log-format", "json") as server:
        yield server
    assert "Traceback" not in server.output(), server.output()


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> RawClient:
    """Its client."""
    return RawClient(server.url)


async def test_uploads_go_on(client: RawClient) -> None:
    """What tusd began is finished here, with its metadata."""
    for upload_id, offset in {BEGUN: 300, OF_TUSD_1: 100}.items():
        url = client.url + upload_id
        answer = await client.head(url)
        assert (answer.status, answer.offset, answer.headers["Upload-Length"]) == (200, offset, "1000")
        assert (await client.patch(url, offset, DATA[offset:])).status == 204
        assert (await client.get(url)).body == DATA
    metadata = (await client.head(client.url + BEGUN)).headers["Upload-Metadata"]
    sent = dict(pair.split(" ") for pair in metadata.split(","))
    assert base64.b64decode(sent["filename"]).decode() == "Zoë's <plan> & more.pdf"


async def test_deferred_length(client: RawClient) -> None:
    """An upload whose length tusd did not know yet can be told it here."""
    url = client.url + DEFERRED
    answer = await client.head(url)
    assert (answer.offset, answer.headers["Upload-Defer-Length"]) == (200, "1")
    assert (await client.patch(url, 200, DATA[200:], {"Upload-Length": 1000})).status == 204
    assert (await client.get(url)).body == DATA


async def test_parts(client: RawClient) -> None:
    """Parts that tusd received can be joined here."""
    answer = await client.post({"Upload-Concat": f"final;/files/{SECOND_PART} {client.url}{FIRST_PART}"})
    assert answer.status == 201
    assert (await client.get(answer.headers["Location"])).body == DATA[400:] + DATA[:400]


@pytest.mark.parametrize("upload_id", [JOINED, JOINED_ALONE])
async def test_joined_upload(client: RawClient, upload_id: str) -> None:
    """What tusd has joined is complete here, whether or not its parts are left."""
    answer = await client.head(client.url + upload_id)
    assert (answer.status, answer.offset) == (200, 1000)
    assert answer.headers["Upload-Concat"].startswith("final;")
    assert (await client.get(client.url + upload_id)).body == DATA


async def test_file_elsewhere(client: RawClient, tusd_data: Path) -> None:
    """A file that a hook of tusd's put outside the directory is refused, not lost and not read."""
    url = client.url + ELSEWHERE
    answer = await client.get(url)
    assert (answer.status, answer.code) == (403, "ERR_FORBIDDEN")
    assert (await client.patch(url, 300, DATA[300:])).status == 403
    assert (tusd_data.parent / "outside").read_bytes() == DATA[:300]
    assert (tusd_data / f"{ELSEWHERE}.info").read_bytes()


async def test_tusd_reads_ours(client: RawClient, tusd_data: Path) -> None:
    """Our manifests have every field of tusd's with its type, and say where the bytes are."""
    part = await client.create(10, {"Upload-Concat": "partial"}, DATA[:10])
    urls = [
        part,
        await client.create(1000, {"Upload-Metadata": "filename w5xiZXI=,empty"}, DATA[:100]),
        await client.create(None, {"Upload-Defer-Length": "1"}),
        (await client.post({"Upload-Concat": f"final;{part} {part}"})).headers["Location"],
    ]
    types = {
        "ID": str,
        "Size": int,
        "SizeIsDeferred": bool,
        "Offset": int,
        "MetaData": dict,
        "IsPartial": bool,
        "IsFinal": bool,
        "PartialUploads": list | None,
        "Storage": dict,
    }
    for url in urls:
        upload_id = url.rsplit("/", 1)[-1]
        manifest = json.loads((tusd_data / f"{upload_id}.info").read_bytes())
        for name, kind in types.items():
            assert isinstance(manifest[name], kind), (name, manifest)
        assert all(isinstance(value, str) for value in {**manifest["MetaData"], **manifest["Storage"]}.values())
        assert manifest["ID"] == upload_id
        assert manifest["Storage"]["Path"] == str(tusd_data / upload_id)
        assert manifest["Storage"]["InfoPath"] == str(tusd_data / f"{upload_id}.info")
        assert "/" not in "".join(manifest["PartialUploads"] or [])


async def test_tusd_goes_on_with_ours(start: Any, data: Path) -> None:
    """Bytes that tusd appended to uploads of ours, while our server was stopped, count when it runs again."""
    server = start()
    client = RawClient(server.url)
    uploads = {stop: await client.create(len(DATA), body=DATA[:100]) for stop in (600, len(DATA))}
    server.stop()
    for stop, url in uploads.items():
        with (data / url.rsplit("/", 1)[-1]).open("ab") as file:
            file.write(DATA[100:stop])
    await asyncio.to_thread(server.start)
    for stop, url in uploads.items():
        assert (await client.offset(url)) == stop
        assert (await client.patch(url, stop, DATA[stop:])).status == 204
        assert (await client.get(url)).body == DATA

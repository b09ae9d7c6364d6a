"""Records come back from manifests and bytes; what cannot be read is named, not guessed."""

import asyncio
import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tusd_py.testing.contracts import wait_until
from tusd_py.testing.raw import Answer, RawClient
from tusd_py.testing.server import ServerProcess, ServerProcessError

DATA = bytes(range(256)) * 40
HALF = len(DATA) // 2
METADATA = "filename " + base64.b64encode("Übersicht.pdf".encode()).decode() + ",empty"


def listed(data: Path) -> dict[str, Any]:
    """What `tusd-py uploads list` knows, by id."""
    command = [sys.executable, "-m", "tusd_py", "uploads", "list", "--json", "--upload-dir", str(data)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return {upload["id"]: upload for upload in map(json.loads, result.stdout.splitlines())}


def seen(answer: Answer) -> dict[str, str]:
    """What an answer to HEAD says of the upload."""
    return {name: value for name, value in answer.headers.items() if name.startswith("Upload-")} | {
        "status": str(answer.status)
    }


async def some_uploads(client: RawClient) -> dict[str, str]:
    """One upload of each kind, by what it is."""
    parts = [await client.create(HALF, {"Upload-Concat": "partial"}, DATA[start : start + HALF]) for start in (0, HALF)]
    final = await client.post({"Upload-Concat": f"final;{' '.join(parts)}", "Upload-Metadata": METADATA})
    return {
        "begun": await client.create(len(DATA), {"Upload-Metadata": METADATA}, DATA[:HALF]),
        "empty": await client.create(len(DATA)),
        "finished": await client.create(len(DATA), {"Upload-Metadata": METADATA}, DATA),
        "deferred": await client.create(None, {"Upload-Defer-Length": "1"}, DATA[:10]),
        "part": parts[0],
        "final": final.headers["Location"],
    }


def delete_database(data: Path) -> None:
    """Delete the records, with what SQLite has beside them."""
    for path in data.glob("uploads.db*"):
        path.unlink()


@pytest.mark.parametrize("how", ["killed", "while running"])
async def test_deleted_database(start: Any, data: Path, how: str) -> None:
    """Records of a deleted database come back: by HEAD, in the list, and with uploads that can go on."""
    server = start("--expire-after", "0")
    client = RawClient(server.url)
    urls = await some_uploads(client)
    before = {kind: seen(await client.head(url)) for kind, url in urls.items()}
    if how == "while running":
        delete_database(data)
        # It goes on with what it has open.
        assert (await client.patch(urls["empty"], 0, b"")).status == 204
        assert {kind: seen(await client.head(url)) for kind, url in urls.items()} == before
        server.stop()
    else:
        server.kill()
        delete_database(data)
    await asyncio.to_thread(server.start)
    assert {kind: seen(await client.head(url)) for kind, url in urls.items()} == before

    uploads = await asyncio.to_thread(listed, data)
    assert {url.rsplit("/", 1)[-1] for url in urls.values()} <= set(uploads)
    assert uploads[urls["begun"].rsplit("/", 1)[-1]]["metadata"] == {"filename": "Übersicht.pdf", "empty": ""}
    assert uploads[urls["finished"].rsplit("/", 1)[-1]]["status"] == "accepted"
    assert (await client.patch(urls["begun"], HALF, DATA[HALF:])).status == 204
    assert (await client.patch(urls["deferred"], 10, DATA[10:], {"Upload-Length": len(DATA)})).status == 204
    for kind in ("begun", "deferred", "finished", "final"):
        assert (await client.get(urls[kind])).body == DATA, kind


async def test_all_records_come_back(start: Any, data: Path) -> None:
    """At the next start all records come back without anybody asking for them: no removed ones, and no damaged ones."""
    server = start()
    client = RawClient(server.url)
    urls = [await client.create(10) for _ in range(20)]
    removed, damaged = await client.create(10, body=b"0123456789"), await client.create(10)
    assert (await client.delete(removed)).status == 204
    server.stop()
    delete_database(data)
    (data / f"{damaged.rsplit('/', 1)[-1]}.info").write_bytes(b"{")
    await asyncio.to_thread(server.start)
    ids = {url.rsplit("/", 1)[-1] for url in urls}

    async def found() -> bool:
        answer = await client.request("GET", "/api/uploads")
        return {upload["id"] for upload in json.loads(answer.body)["uploads"]} == ids

    await wait_until(found)
    assert set(await asyncio.to_thread(listed, data)) == ids
    assert (await client.head(removed)).status == 404
    assert (await client.head(damaged)).status == 503
    await wait_until(lambda: "could not make a record from a manifest" in server.output())


async def test_deleted_database_and_locks(start: Any, data: Path) -> None:
    """Lock numbers that begin anew together with the records do not lock anybody out."""
    server = start()
    client = RawClient(server.url)
    url = await client.create(None, {"Upload-Defer-Length": "1"})
    for start_at in range(0, 50, 10):
        assert (await client.patch(url, start_at, b"0123456789")).status == 204
    assert (await client.patch(url, 50, b"", {"Upload-Length": 100})).status == 204
    server.stop()
    delete_database(data)
    for path in (data / ".locks").iterdir():
        path.unlink()
    await asyncio.to_thread(server.start)
    assert (await client.offset(url)) == 50
    assert (await client.patch(url, 50, b"01234567890123456789012345678901234567890123456789")).status == 204


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"{", id="cut"),
        pytest.param(os.urandom(300), id="noise"),
        pytest.param(b"[1, 2]", id="other JSON"),
        pytest.param(b'{"ID": "other", "Size": 5}', id="of another upload"),
        pytest.param(b'{"ID": "%s", "Size": "many"}', id="wrong types"),
    ],
)
async def test_damaged_manifest(server_with: Callable[..., ServerProcess], damage: bytes) -> None:
    """A manifest that cannot be read is an error for the operator, neither a missing upload nor a crash."""
    server = server_with("--locker", "memory:")
    client = RawClient(server.url)
    data = Path(server._args[1])
    upload_id = "damaged" + os.urandom(4).hex()
    (data / f"{upload_id}.info").write_bytes(damage % upload_id.encode() if b"%s" in damage else damage)
    (data / upload_id).write_bytes(DATA)
    answer = await client.head(server.url + upload_id)
    assert answer.status == 503
    answer = await client.get(server.url + upload_id)
    assert (answer.status, answer.code) == (503, "ERR_STORE_UNAVAILABLE")
    assert f"the manifest of upload {upload_id} is damaged" in answer.body.decode()
    assert (data / upload_id).read_bytes() == DATA


def test_manifest_is_readable(start: Any, data: Path) -> None:
    """A manifest is indented JSON, with what a person wants to know under clear names."""
    server = start()
    client = RawClient(server.url)
    url = asyncio.run(client.create(len(DATA), {"Upload-Metadata": METADATA}, DATA))
    text = (data / f"{url.rsplit('/', 1)[-1]}.info").read_text()
    assert text.startswith('{\n  "ID": ')
    assert '"filename": "Übersicht.pdf"' in text
    manifest = json.loads(text)
    assert (manifest["Size"], manifest["SizeIsDeferred"]) == (len(DATA), False)
    assert manifest["Storage"]["Path"] == str(data / manifest["ID"])


@pytest.mark.parametrize("damage", ["noise", "pages"])
async def test_damaged_database(start: Any, data: Path, damage: str) -> None:
    """A file of records that cannot be used is named at start, with what to do, which then works."""
    server = start()
    client = RawClient(server.url)
    urls = [await client.create(len(DATA), {"Upload-Metadata": METADATA}, DATA[:HALF]) for _ in range(40)]
    server.stop()
    path = data / "uploads.db"
    content = path.read_bytes()
    whole = 0 if damage == "noise" else 4096
    path.write_bytes(content[:whole] + os.urandom(len(content) - whole))
    with pytest.raises(ServerProcessError) as failure:
        await asyncio.to_thread(server.start)
    assert "Traceback" not in str(failure.value)
    assert "Error: " in str(failure.value)
    assert str(path) in str(failure.value)
    assert "move it away" in str(failure.value)
    path.rename(data / "damaged")
    delete_database(data)
    await asyncio.to_thread(server.start)
    for url in urls:
        assert (await client.offset(url)) == HALF

"""The event loop never waits for the disk."""

from pathlib import Path

from tusd_py.testing.raw import RawClient
from tusd_py.testing.server import ServerProcess

# Loaded as a plugin, so that it watches the real server from inside: a blocking call on the event loop raises.
GUARD = """
from blockbuster import BlockBuster
from tusd_py import hookimpl

@hookimpl
def register_settings(settings):
    guard = BlockBuster()
    guard.activate()
"""


async def test_no_operation_blocks_the_event_loop(tmp_path: Path) -> None:
    """Everything that a client can ask for is done without a blocking call where others would have to wait."""
    guard = tmp_path / "guard.py"
    guard.write_text(GUARD)
    options = ["--upload-dir", str(tmp_path / "data"), "--plugin", str(guard), "--audit-log", str(tmp_path / "audit")]
    with ServerProcess(*options) as server:
        tus = RawClient(server.url)
        url = await tus.create(10, {"Upload-Metadata": "filename ZmlsZQ=="}, b"hello")
        assert (await tus.head(url)).offset == 5
        checksum = {"Upload-Checksum": "crc32 AAAAAA=="}
        assert (await tus.patch(url, 5, b"world", checksum)).status == 460
        assert (await tus.patch(url, 5, b"world")).status == 204
        assert (await tus.get(url)).body == b"helloworld"
        parts = [await tus.create(3, {"Upload-Concat": "partial"}, b"abc") for _ in range(2)]
        final = await tus.create(None, {"Upload-Concat": "final;" + " ".join(parts)})
        assert (await tus.get(final)).body == b"abcabc"
        assert (await tus.delete(final)).status == 204
        for page in ("/api/uploads", "/metrics", "/readyz", "/healthz"):
            assert (await tus.get(page)).status == 200
        assert (await tus.get(f"/api/uploads/{url.rpartition('/')[2]}/events", {"Connection": "close"})).status == 200
    assert "BlockingError" not in server.output(), server.output()

"""Random sequences of operations on a real server, compared with a model of the specification.

The model is what the specification says in plain Python: bytes, a length, and a few rules. After every step the
server has to agree with it; at the end every upload is completed and read back.
"""

import asyncio
import hashlib
import json
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tusd_py.testing.raw import CHUNKED, Answer, Headers, RawClient, chunked
from tusd_py.testing.server import ServerProcess

MAX_SIZE = 40
CONTENT = bytes(range(1, 256))


@dataclass
class Upload:
    """What is known of an upload."""

    url: str
    length: int | None
    data: bytes = b""
    metadata: str | None = None
    concat: str | None = None
    is_gone: bool = False

    @property
    def is_final(self) -> bool:
        return self.concat is not None and self.concat.startswith("final")

    @property
    def is_complete(self) -> bool:
        return len(self.data) == self.length

    def patch(self, offset: int, body: bytes, length: int | None, checksum_is_right: bool) -> int:
        """Take a PATCH and return the status that it deserves."""
        if self.is_gone:
            return 410
        if self.is_final:
            return 403
        if offset != len(self.data):
            return 409
        known = self.length
        if length is not None:
            if known not in (None, length):
                return 400
            if length > MAX_SIZE:
                return 413
            if length < len(self.data):
                return 400
            known = length
        if len(self.data) + len(body) > (MAX_SIZE if known is None else known):
            return 413
        # A length that was told stays, even if the bytes that came with it do not.
        self.length = known
        if not checksum_is_right and not (self.is_complete and not body):
            return 460
        self.data += body
        return 204


def content(seed: int, size: int) -> bytes:
    """Bytes that show where they are from."""
    return (CONTENT[seed:] + CONTENT)[:size]


def checksum(data: bytes, right: bool) -> Headers:
    """The header for these bytes, or for others."""
    digest = hashlib.sha256(data if right else data + b"!").digest()
    return {"Upload-Checksum": f"sha256 {b64encode(digest).decode()}"}


SIZES = st.integers(0, MAX_SIZE + 2)
SEEDS = st.integers(0, 200)
METADATA = st.sampled_from([None, "a", "name YQ==", "b ,a  Yg=="])
WAYS = st.sampled_from(["", "chunked", "POST", "chunked POST"])
CHECKSUMS = st.sampled_from([None, None, True, False])


class TusModel(RuleBasedStateMachine):
    """The operations that clients and fate can do."""

    uploads: Bundle[Upload] = Bundle("uploads")
    finals: Bundle[Upload] = Bundle("finals")
    gone: Bundle[Upload] = Bundle("gone")

    def __init__(self, server: ServerProcess) -> None:
        super().__init__()
        self.server = server
        self.tus = RawClient(server.url)
        self.loop = asyncio.Runner()
        self.known: dict[str, Upload] = {}
        self.may_crash = False

    def teardown(self) -> None:
        """Complete what is not, and read everything back."""
        try:
            for upload in self.known.values():
                self.loop.run(self.complete(upload))
        finally:
            self.loop.close()

    async def complete(self, upload: Upload) -> None:
        if not upload.is_gone and not upload.is_complete:
            length = MAX_SIZE if upload.length is None else upload.length
            rest = content(7, length - len(upload.data))
            answer = await self.tus.patch(upload.url, len(upload.data), rest, {"Upload-Length": length})
            assert answer.status == upload.patch(len(upload.data), rest, length, True) == 204
        await self.agree_in_all(upload)

    def remember(self, upload: Upload) -> Upload:
        return self.known.setdefault(upload.url, upload)

    async def agree(self, upload: Upload) -> None:
        """HEAD says what the model says."""
        head = await self.tus.head(upload.url)
        if upload.is_gone:
            assert (head.status, head.offset) == (410, None)
            return
        assert (head.status, head.offset) == (200, len(upload.data))
        assert head.headers.get("Upload-Length") == (None if upload.length is None else str(upload.length))
        assert head.headers.get("Upload-Defer-Length") == ("1" if upload.length is None else None)
        assert head.headers.get("Upload-Metadata") == upload.metadata
        assert head.headers.get("Upload-Concat") == upload.concat

    async def agree_in_all(self, upload: Upload) -> None:
        """HEAD, GET and the status API do."""
        await self.agree(upload)
        answer = await self.tus.get(upload.url)
        shown = await self.tus.request("GET", "/api/uploads/" + upload.url.rpartition("/")[2])
        told = json.loads(shown.body)
        if upload.is_gone:
            assert (answer.status, told["status"]) == (410, "terminated")
            return
        assert (told["offset"], told["length"]) == (len(upload.data), upload.length)
        assert told["status"] == ("accepted" if upload.is_complete else "receiving")
        if upload.is_complete and upload.concat != "partial":
            assert (answer.status, answer.body) == (200, upload.data)
        else:
            assert answer.status == 404

    # Creation

    @initialize(target=uploads, size=st.integers(1, MAX_SIZE), chance=st.sampled_from(range(4)))
    def begin(self, size: int, chance: int) -> Upload:
        """There is an upload to work with. A crash takes long, so there is one at most, in every fourth sequence."""
        self.may_crash = chance == 0
        url = self.loop.run(self.tus.create(size))
        return self.remember(Upload(url, size))

    @rule(
        target=uploads,
        length=st.sampled_from([None, None, MAX_SIZE, MAX_SIZE, 12, 1, 0, MAX_SIZE + 1]),
        seed=SEEDS,
        size=st.sampled_from([0, 0, 1, 5, MAX_SIZE, MAX_SIZE + 1]),
        metadata=METADATA,
        is_partial=st.booleans(),
        checksum_is_right=CHECKSUMS,
        whole=st.sampled_from([False, False, True]),
    )
    def create(
        self,
        length: int | None,
        seed: int,
        size: int,
        metadata: str | None,
        is_partial: bool,
        checksum_is_right: bool | None,
        whole: bool,
    ) -> Any:
        """Create an upload: with a length or without, with bytes or without."""
        if whole and length is not None:
            size = length
        body = content(seed, size)
        headers: Headers = {
            "Upload-Length": length,
            "Upload-Defer-Length": 1 if length is None else None,
            "Upload-Metadata": metadata,
            "Upload-Concat": "partial" if is_partial else None,
        }
        if checksum_is_right is not None:
            headers = {**headers, **checksum(body, checksum_is_right)}
        answer = self.loop.run(self.tus.post(headers, body))
        if (length or 0) > MAX_SIZE or size > (MAX_SIZE if length is None else length):
            expected = 413
        elif checksum_is_right is False:
            expected = 460
        else:
            expected = 201
        assert answer.status == expected
        if expected != 201:
            assert "Location" not in answer.headers
            return multiple()
        assert answer.offset == (size if body or length == 0 else None)
        url = answer.headers["Location"]
        assert url not in self.known
        upload = Upload(url, length, body, metadata, "partial" if is_partial else None)
        self.loop.run(self.agree(upload))
        return self.remember(upload)

    @rule(target=finals, members=st.lists(uploads | finals | gone, max_size=3), metadata=METADATA)
    def concatenate(self, members: list[Upload], metadata: str | None) -> Any:
        """Put uploads together that may be, and others."""
        value = "final;" + " ".join(member.url for member in members)
        answer = self.loop.run(self.tus.post({"Upload-Concat": value, "Upload-Metadata": metadata}))
        fit = all(member.concat == "partial" and member.is_complete and not member.is_gone for member in members)
        data = b"".join(member.data for member in members)
        assert answer.status == (400 if not members or not fit else 413 if len(data) > MAX_SIZE else 201)
        if answer.status != 201:
            return multiple()
        url = answer.headers["Location"]
        same = self.known.get(url)
        if same is not None:
            assert (same.data, same.concat, same.metadata, same.is_gone) == (data, value, metadata, False)
            return multiple()
        upload = self.remember(Upload(url, len(data), data, metadata, value))
        self.loop.run(self.agree(upload))
        return upload

    # Bytes

    def send(
        self,
        upload: Upload,
        body: bytes,
        *,
        ahead: int = 0,
        right: bool | None = None,
        length: int | None = None,
        how: str,
    ) -> None:
        """PATCH, as `how` says, and compare."""
        offset = max(0, len(upload.data) + ahead)
        headers: Headers = {"Upload-Length": length}
        if right is not None:
            headers = {**headers, **checksum(body, right)}
        if "chunked" in how:
            headers = {**headers, **CHUNKED}
        if "POST" in how:
            headers = {**headers, "X-HTTP-Method-Override": "PATCH"}
        sent = chunked(*[body] * bool(body)) if "chunked" in how else body
        message = self.tus.patch_message(upload.url, offset, sent, headers)
        answer = self.loop.run(self.tus.exchange(b"POST" + message[5:] if "POST" in how else message))
        self.check(upload, answer, upload.patch(offset, body, length, right is not False))

    @rule(upload=uploads, seed=SEEDS, size=st.integers(0, 12), is_last=st.booleans(), how=WAYS)
    def append(self, upload: Upload, seed: int, size: int, is_last: bool, how: str) -> None:
        """Append, and say that these were the last bytes or do not."""
        self.send(upload, content(seed, size), length=len(upload.data) + size if is_last else None, how=how)

    @rule(upload=uploads, seed=SEEDS, size=st.integers(0, 12), how=WAYS)
    def append_more(self, upload: Upload, seed: int, size: int, how: str) -> None:
        """Append and leave it open whether there is more."""
        self.send(upload, content(seed, size), how=how)

    @rule(upload=uploads, seed=SEEDS, how=WAYS)
    def append_the_rest(self, upload: Upload, seed: int, how: str) -> None:
        """Append what is missing, or as much as there may be."""
        rest = (MAX_SIZE if upload.length is None else upload.length) - len(upload.data)
        self.send(upload, content(seed, rest), how=how)

    @rule(upload=uploads, seed=SEEDS, size=st.integers(0, 12), right=st.booleans(), how=WAYS)
    def append_verified(self, upload: Upload, seed: int, size: int, right: bool, how: str) -> None:
        """Append with a checksum, right or wrong."""
        self.send(upload, content(seed, size), right=right, how=how)

    @rule(upload=uploads, seed=SEEDS, size=st.integers(0, 12), ahead=st.sampled_from([-1, 1, 5]), how=WAYS)
    def append_elsewhere(self, upload: Upload, seed: int, size: int, ahead: int, how: str) -> None:
        """Append where the upload does not end."""
        self.send(upload, content(seed, size), ahead=ahead, how=how)

    @rule(upload=uploads, seed=SEEDS, size=st.sampled_from([0, 0, 5]), length=SIZES, right=CHECKSUMS)
    def tell_length(self, upload: Upload, seed: int, size: int, length: int, right: bool | None) -> None:
        """Tell a length that may not fit."""
        self.send(upload, content(seed, size), length=length, right=right, how="")

    def check(self, upload: Upload, answer: Answer, expected: int) -> None:
        assert answer.status == expected
        assert answer.offset == (len(upload.data) if expected in (204, 409) else None)
        self.loop.run(self.agree(upload))

    @rule(
        upload=uploads,
        seed=SEEDS,
        size=st.integers(1, 12),
        sent=st.integers(0, 12),
        has_checksum=st.booleans(),
        is_chunked=st.booleans(),
    )
    def cut(self, upload: Upload, seed: int, size: int, sent: int, has_checksum: bool, is_chunked: bool) -> None:
        """A PATCH breaks off: what arrived counts, unless it had to be verified."""
        sent = min(sent, size - 1)
        body = content(seed, size)
        headers: Headers = CHUNKED if is_chunked else {"Content-Length": size}
        if has_checksum:
            headers = {**headers, **checksum(body, True)}
        data = b"%x\r\n%s" % (size, body[:sent]) if is_chunked else body[:sent]
        message = self.tus.patch_message(upload.url, len(upload.data), headers=headers) + data
        room = (MAX_SIZE if upload.length is None else upload.length) - len(upload.data)
        fits = sent <= room if is_chunked else size <= room
        self.loop.run(self.send_and_leave(message))
        if fits and sent and not has_checksum:
            upload.data += body[:sent]
            self.loop.run(self.wait_for(upload))
        else:
            self.loop.run(self.settle(upload))
        self.loop.run(self.agree(upload))

    async def send_and_leave(self, message: bytes) -> None:
        async with self.tus.connect() as connection:
            await connection.send(message)
            connection.end()
            await connection.rest()

    async def wait_for(self, upload: Upload) -> None:
        """The server may notice a little later that the client has left, but then it has everything."""
        async with asyncio.timeout(20):
            while (offset := await self.tus.offset(upload.url)) != len(upload.data):
                assert offset is not None
                assert offset <= len(upload.data)

    async def settle(self, upload: Upload) -> None:
        """Wait until nothing holds the upload: an empty PATCH gets through."""
        answer = await self.tus.patch(upload.url, len(upload.data))
        assert answer.status == upload.patch(len(upload.data), b"", None, True)

    # The rest

    @rule(upload=uploads | finals | gone)
    def look(self, upload: Upload) -> None:
        """Looking changes nothing."""
        self.loop.run(self.agree_in_all(upload))

    @rule(upload=finals | gone, ahead=st.sampled_from([0, 0, 1]), size=st.integers(0, 3))
    def patch_in_vain(self, upload: Upload, ahead: int, size: int) -> None:
        """What is final or gone takes nothing."""
        offset, body = len(upload.data) + ahead, content(0, size)
        answer = self.loop.run(self.tus.patch(upload.url, offset, body))
        self.check(upload, answer, upload.patch(offset, body, None, True))

    @rule(target=gone, upload=consumes(uploads) | consumes(finals))
    def terminate(self, upload: Upload) -> Upload:
        """Remove an upload."""
        assert self.loop.run(self.tus.delete(upload.url)).status == 204
        upload.is_gone = True
        self.loop.run(self.agree(upload))
        return upload

    @rule(upload=gone)
    def terminate_again(self, upload: Upload) -> None:
        """It can be removed once."""
        assert self.loop.run(self.tus.delete(upload.url)).status == 410

    @rule(
        upload=uploads,
        seed=SEEDS,
        sent=st.integers(0, 12),
        has_checksum=st.booleans(),
        patience=st.integers(0, 15),
    )
    @precondition(lambda self: self.may_crash)
    def crash(self, upload: Upload, seed: int, sent: int, has_checksum: bool, patience: int) -> None:
        """The server is killed while it receives: it keeps a part of that, and all that it had."""
        self.may_crash = False
        room = (MAX_SIZE if upload.length is None else upload.length) - len(upload.data)
        body = content(seed, min(sent, room))
        headers: Headers = {"Content-Length": max(room, 1)}
        if has_checksum:
            headers = {**headers, **checksum(content(seed, room), True)}
        message = self.tus.patch_message(upload.url, len(upload.data), headers=headers) + body
        self.loop.run(self.send_and_kill(message, patience))
        self.server.restart()
        if not upload.is_complete:
            offset = self.loop.run(self.tus.offset(upload.url))
            assert offset is not None
            kept = offset - len(upload.data)
            assert 0 <= kept <= (0 if has_checksum and len(body) < room else len(body))
            upload.data += body[:kept]
        for each in self.known.values():
            self.loop.run(self.agree_in_all(each))

    async def send_and_kill(self, message: bytes, patience: int) -> None:
        async with self.tus.connect() as connection:
            await connection.send(message)
            # Each answer to something else lets the server get further with this.
            for _ in range(patience):
                await self.tus.request("OPTIONS")
            self.server.kill()


@pytest.mark.timeout(0)
def test_model(tmp_path: Path) -> None:
    """The server and the model agree, whatever is done in whatever order."""
    with ServerProcess("--upload-dir", str(tmp_path), "--max-size", str(MAX_SIZE), "--create-rate", "0") as server:
        examples = settings(max_examples=settings().max_examples * 2 // 5, stateful_step_count=50)
        run_state_machine_as_test(lambda: TusModel(server), settings=examples)
        assert '"level": "error"' not in server.output()

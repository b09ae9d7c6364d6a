"""Concatenation of more than S3 copies at once; scripts/backends --large runs this, for it moves 10 GiB."""

import secrets

import pytest

from tusd_py.body import Body
from tusd_py.models import Upload
from tusd_py.stores.s3 import S3Store, Settings
from tusd_py.stores.s3_client import Options
from tusd_py.testing.contracts import new_upload
from tusd_py.testing.contracts.store import no_progress
from tusd_py.testing.s3 import BUCKET, S3Server

MIB = 1024 * 1024
PIECE = 64 * MIB


@pytest.mark.timeout(1200)
async def test_member_of_more_than_5_gib(s3: S3Server) -> None:
    """A partial upload that is too large for one copy becomes part of a whole, all of it inside the storage."""
    prefix = f"{secrets.token_hex(8)}/"
    # Versity's gateway cannot tell the checksum of a range.
    settings = Settings(checksum="none" if s3.name == "versitygw" else "full")
    store = S3Store(BUCKET, prefix, Options(endpoint=s3.endpoint, path_style=True, seconds=300), settings)
    await store.open()

    async def joined(*members: Upload) -> Upload:
        final = await store.create(new_upload(length=sum(member.offset for member in members)))
        return await store.finish(await store.concatenate(final, members, no_progress))

    data = secrets.token_bytes(PIECE)
    body = Body.of([data[start : start + MIB] for start in range(0, PIECE, MIB)])
    piece = await store.finish(await store.append(await store.create(new_upload(length=PIECE)), body, no_progress))
    large = await joined(*[piece] * 81)
    assert large.offset > 5 * 1024 * MIB
    whole = await joined(piece, large)
    content = store.content(whole)
    assert s3.call("head_object", Key=prefix + whole.id)["ContentLength"] == content.size == 82 * PIECE
    for number in (0, 1, 4, 79, 80, 81):
        start = number * PIECE - 5 if number else 0
        found = b"".join([chunk async for chunk in content.chunks(start, start + 10)])
        assert found == (data[-5:] + data[:5] if number else data[:10])
    for upload in (piece, large, whole):
        await store.remove(upload)
    await store.aclose()

"""Expect: 100-continue: the body is asked for once the request is found right."""

import pytest

from tusd_py.testing.raw import CHUNKED, OFFSET_STREAM, Headers, RawClient, chunked


async def test_expect(tus: RawClient) -> None:
    """The interim answer comes once the request is found right, and its connection can be used again."""
    url = await tus.create(10)
    async with tus.connect() as connection:
        for offset in (0, 5):
            headers = {"Content-Length": 5, "Expect": "100-continue"}
            await connection.send(tus.patch_message(url, offset, headers=headers))
            assert (await connection.answer()).status == 100
            await connection.send(b"hello")
            assert (await connection.answer()).status == 204
    assert (await tus.get(url)).body == b"hellohello"


async def test_expect_with_chunks(tus: RawClient) -> None:
    """A chunked body can be waited for too."""
    url = await tus.create(5)
    async with tus.connect() as connection:
        headers = {**CHUNKED, "Expect": "100-continue"}
        await connection.send(tus.patch_message(url, 0, headers=headers))
        assert (await connection.answer()).status == 100
        await connection.send(chunked(b"hello"))
        assert (await connection.answer()).status == 204


async def test_expect_with_creation(tus: RawClient) -> None:
    """A creation with bytes waits for permission as well."""
    headers = {"Upload-Length": 5, "Content-Length": 5, "Content-Type": OFFSET_STREAM, "Expect": "100-Continue"}
    async with tus.connect() as connection:
        await connection.send(tus.message("POST", headers=headers))
        assert (await connection.answer()).status == 100
        await connection.send(b"hello")
        answer = await connection.answer()
        assert (answer.status, answer.offset) == (201, 5)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Tus-Resumable": "0.2.2"}, 412),
        ({"Upload-Offset": 1}, 409),
        ({"Upload-Offset": "-1"}, 400),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Length": 11}, 413),
        ({"Upload-Length": 9}, 400),
        ({"Upload-Checksum": "rot13 YQ=="}, 400),
        ({"X-HTTP-Method-Override": "FOO"}, 405),
        ({**CHUNKED, "Upload-Offset": 1}, 409),
    ],
)
async def test_refused_before_the_body(tus: RawClient, headers: Headers, status: int) -> None:
    """A client that waits for permission hears the refusal first, and never that it may go on."""
    url = await tus.create(10)
    async with tus.connect() as connection:
        await connection.send(
            tus.patch_message(url, 0, headers={"Content-Length": 5, "Expect": "100-continue", **headers})
        )
        answer = await connection.answer()
        assert answer.status == status
        # Whether the body follows cannot be known, so that no request may follow it.
        assert answer.headers["Connection"] == "close"
    assert await tus.offset(url) == 0


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Upload-Length": 101}, 413),
        ({"Content-Length": 51}, 413),
        ({"Content-Type": "text/plain"}, 415),
        ({"Upload-Length": None}, 400),
    ],
)
async def test_creation_refused_before_the_body(limited: RawClient, headers: Headers, status: int) -> None:
    """A creation with bytes that cannot be is refused before they are sent."""
    own: Headers = {"Upload-Length": 50, "Content-Length": 50, "Content-Type": OFFSET_STREAM, "Expect": "100-continue"}
    async with limited.connect() as connection:
        await connection.send(limited.message("POST", headers={**own, **headers}))
        assert (await connection.answer()).status == status


async def test_unknown_upload_refused_before_the_body(tus: RawClient) -> None:
    """So is a PATCH on nothing."""
    async with tus.connect() as connection:
        headers = {"Content-Length": 5, "Expect": "100-continue"}
        await connection.send(tus.patch_message(tus.url + "unknown", 0, headers=headers))
        assert (await connection.answer()).status == 404


async def test_access_refused_before_the_body(people: RawClient) -> None:
    """So is a request by somebody who may not make it, or whom nobody knows."""
    url = await people.create(5, {"X-User": "anna"})
    for user, status in (("bert", 403), (None, 401)):
        async with people.connect() as connection:
            headers = {"Content-Length": 5, "Expect": "100-continue", "X-User": user}
            await connection.send(people.patch_message(url, 0, headers=headers))
            assert (await connection.answer()).status == status
    async with people.connect() as connection:
        own: Headers = {"Upload-Length": 5, "Content-Type": OFFSET_STREAM, "Content-Length": 5}
        await connection.send(people.message("POST", headers={**own, "Expect": "100-continue"}))
        assert (await connection.answer()).status == 401


async def test_other_expectations(tus: RawClient) -> None:
    """An expectation that is not met is refused."""
    answer = await tus.post({"Upload-Length": 5, "Expect": "200-ok"})
    assert (answer.status, answer.code) == (417, "ERR_INVALID_REQUEST")

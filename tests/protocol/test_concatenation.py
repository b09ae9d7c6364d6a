"""Concatenation and concatenation-unfinished: uploads made of uploads."""

from collections.abc import Callable

import pytest

from tusd_py.testing.raw import CHUNKED, Answer, Headers, RawClient, chunked
from tusd_py.testing.server import ServerProcess

PARTIAL: Headers = {"Upload-Concat": "partial"}


@pytest.fixture
def unfinished(server_with: Callable[..., ServerProcess]) -> RawClient:
    """A client of a server that takes concatenations before their parts are complete."""
    return RawClient(server_with("--concatenation-unfinished").url)


@pytest.fixture
def limited(server_with: Callable[..., ServerProcess]) -> RawClient:
    """A client of a server that takes 100 bytes, of up to 3 parts."""
    return RawClient(server_with("--max-size", "100", "--max-concat-members", "3").url)


async def part(tus: RawClient, content: bytes, headers: Headers | None = None) -> str:
    """A complete partial upload."""
    return await tus.create(len(content), {**PARTIAL, **(headers or {})}, content)


async def join(tus: RawClient, *urls: str, headers: Headers | None = None) -> Answer:
    """The answer to a concatenation."""
    return await tus.post({"Upload-Concat": "final;" + " ".join(urls), **(headers or {})})


async def test_parts(tus: RawClient) -> None:
    """A partial upload is one like any other, but cannot be downloaded, and HEAD says what it is."""
    url = await tus.create(6, PARTIAL, b"abc")
    assert (await tus.patch(url, 3, b"def")).status == 204
    head = await tus.head(url)
    assert (head.offset, head.headers["Upload-Length"], head.headers["Upload-Concat"]) == (6, "6", "partial")
    answer = await tus.get(url)
    assert (answer.status, answer.code) == (404, "ERR_UPLOAD_NOT_FINISHED")


async def test_final(tus: RawClient) -> None:
    """A final upload has the bytes of its parts in their order, is complete at once, and cannot be changed."""
    urls = [await part(tus, content) for content in (b"abc", b"", b"defg", b"h")]
    answer = await join(tus, *urls)
    assert (answer.status, answer.offset) == (201, 8)
    url = answer.headers["Location"]
    head = await tus.head(url)
    assert (head.offset, head.headers["Upload-Length"]) == (8, "8")
    assert head.headers["Upload-Concat"] == "final;" + " ".join(urls)
    assert (await tus.get(url)).body == b"abcdefgh"
    for offset, body in ((8, b""), (8, b"x"), (0, b"x")):
        patch = await tus.patch(url, offset, body)
        assert (patch.status, patch.code) == (403, "ERR_MODIFY_FINAL")
    assert (await tus.get(url)).body == b"abcdefgh"


async def test_parts_can_be_used_again(tus: RawClient) -> None:
    """A part may be in many concatenations, and many times in one."""
    a, b = await part(tus, b"a"), await part(tus, b"b")
    for urls, content in (((a, b), b"ab"), ((b, a), b"ba"), ((a, a, b, a), b"aaba")):
        assert (await tus.get((await join(tus, *urls)).headers["Location"])).body == content


async def test_urls(tus: RawClient) -> None:
    """Parts are named by absolute or relative URLs, with whatever host and prefix a proxy shows; HEAD repeats them."""
    a, b = await part(tus, b"a"), await part(tus, b"b")
    a_id, b_id = a.rpartition("/")[2], b.rpartition("/")[2]
    value = f"final; /files/{a_id}  https://cdn.example/upload/files/{b_id} {a_id}"
    url = (await tus.post({"Upload-Concat": value})).headers["Location"]
    assert (await tus.get(url)).body == b"aba"
    assert (await tus.head(url)).headers["Upload-Concat"] == value


async def test_metadata(tus: RawClient) -> None:
    """The final upload has its own metadata and nothing of its parts'."""
    url = await part(tus, b"a", {"Upload-Metadata": "filename cGFydA=="})
    assert "Upload-Metadata" not in (await tus.head((await join(tus, url)).headers["Location"])).headers
    answer = await join(tus, url, headers={"Upload-Metadata": "filename d2hvbGU="})
    head = await tus.head(answer.headers["Location"])
    assert head.headers["Upload-Metadata"] == "filename d2hvbGU="
    content = await tus.get(answer.headers["Location"])
    assert "whole" in content.headers["Content-Disposition"]


async def test_repeated(tus: RawClient) -> None:
    """A client that lost the answer gets the same upload again; with other metadata or parts it is another one."""
    a, b = await part(tus, b"a"), await part(tus, b"b")
    first, again = await join(tus, a, b), await join(tus, a, b)
    assert (again.status, again.offset) == (201, 2)
    assert again.headers["Location"] == first.headers["Location"]
    others = [await join(tus, b, a), await join(tus, a), await join(tus, a, b, headers={"Upload-Metadata": "x"})]
    assert len({answer.headers["Location"] for answer in [first, *others]}) == 4
    assert (await tus.get(first.headers["Location"])).body == b"ab"


async def test_repeated_by_path(tus: RawClient) -> None:
    """The same parts under other names for the same URLs are another request, which gets its own upload and value."""
    url = await part(tus, b"a")
    first, second = await join(tus, url), await join(tus, "/files/" + url.rpartition("/")[2])
    assert first.headers["Location"] != second.headers["Location"]
    assert (await tus.get(second.headers["Location"])).body == b"a"


async def test_repeated_after_its_end(tus: RawClient) -> None:
    """After the upload was removed the same request makes a new one, at another URL."""
    url = await part(tus, b"a")
    first = (await join(tus, url)).headers["Location"]
    assert (await tus.delete(first)).status == 204
    second = (await join(tus, url)).headers["Location"]
    assert second != first
    assert (await tus.head(first)).status == 410
    assert (await tus.get(second)).body == b"a"


async def test_deferred_part(tus: RawClient) -> None:
    """A part whose length was deferred can be used once it is told."""
    url = await tus.create(headers={**PARTIAL, "Upload-Defer-Length": 1}, body=b"abc")
    assert (await join(tus, url)).refused("ERR_INVALID_CONCAT")
    assert (await tus.patch(url, 3, headers={"Upload-Length": 3})).status == 204
    assert (await tus.get((await join(tus, url)).headers["Location"])).body == b"abc"


@pytest.mark.parametrize(
    "value",
    [
        "",
        "final",
        "final;",
        "final;  ",
        "Final;/files/a",
        "partial;/files/a",
        "partial,final",
        "final;/files/",
        "final;/files/../a/..",
        "final;/files/%2e%2e%2fsecret",
        "final;/files/a%00",
        "final;/files/\u00e4",
        "final;/files/unknown",
        "final;https://elsewhere.example/files/unknown",
        "final;http://[/unknown",
        ["partial", "partial"],
        ["final;/files/a", "partial"],
    ],
)
async def test_malformed(tus: RawClient, value: str | list[str]) -> None:
    """Nothing, unknown words, what is no upload's URL, and uploads that do not exist cannot be put together."""
    assert (await tus.post({"Upload-Concat": value, "Upload-Length": None})).refused("ERR_INVALID_CONCAT")


async def test_with_a_length(tus: RawClient) -> None:
    """A final upload comes without a length, deferred or not, and without bytes."""
    url = await part(tus, b"abc")
    for headers in ({"Upload-Length": 3}, {"Upload-Length": 0}, {"Upload-Defer-Length": 1}):
        assert (await join(tus, url, headers=headers)).refused("ERR_INVALID_CONCAT")
    assert (await tus.post({"Upload-Concat": f"final;{url}"}, b"abc")).refused("ERR_INVALID_CONCAT")
    answer = await tus.post({"Upload-Concat": f"final;{url}", **CHUNKED}, chunked())
    assert answer.refused("ERR_INVALID_CONCAT")


async def test_wrong_members(tus: RawClient) -> None:
    """Uploads that are not partial, final ones, unfinished ones and those that are gone cannot be put together."""
    good = await part(tus, b"a")
    final = (await join(tus, good)).headers["Location"]
    gone = await part(tus, b"a")
    await tus.delete(gone)
    for wrong in (await tus.create(1, body=b"a"), final, await tus.create(2, PARTIAL, b"a"), gone, good + "x"):
        assert (await join(tus, wrong)).refused("ERR_INVALID_CONCAT")
        assert (await join(tus, good, wrong)).refused("ERR_INVALID_CONCAT")
        assert (await join(tus, wrong, good)).refused("ERR_INVALID_CONCAT")


async def test_limits(limited: RawClient) -> None:
    """What is put together is not larger than any other upload may be, and not of more parts than are taken."""
    a, b, c = [await part(limited, bytes(size)) for size in (60, 40, 1)]
    assert (await join(limited, a, b)).status == 201
    answer = await join(limited, a, b, c)
    assert (answer.status, answer.code) == (413, "ERR_MAX_SIZE_EXCEEDED")
    assert (await join(limited, c, c, c)).status == 201
    assert (await join(limited, c, c, c, c)).refused("ERR_INVALID_CONCAT")


async def test_strangers(people: RawClient) -> None:
    """Nobody can read another's upload by making a part of it, nor learn of it anything else."""
    anna, bert = {"X-User": "anna"}, {"X-User": "bert"}
    hers, his = await part(people, b"hers", anna), await part(people, b"his", bert)
    for user, status in ((bert, 403), ({}, 401)):
        for answer in (
            await join(people, hers, headers=user),
            await join(people, his, hers, headers=user),
            await people.head(hers, user),
            await people.patch(hers, 4, headers=user),
            await people.delete(hers, user),
        ):
            assert (answer.status, answer.offset, answer.headers.get("Location")) == (status, None, None)
    final = (await join(people, hers, headers=anna)).headers["Location"]
    assert (await people.get(final, anna)).body == b"hers"
    assert (await people.get(final, bert)).status == 403


async def test_of_itself(people: RawClient) -> None:
    """An upload whose URL is known beforehand cannot be a part of itself, neither at first nor later."""
    user: Headers = {"X-User": "anna"}
    headers: Headers = {**user, "Upload-Metadata": "id b3Vyb2Jvcm9z"}
    url = people.url + "ouroboros"
    assert (await join(people, url, headers=headers)).refused("ERR_INVALID_CONCAT")
    other = await part(people, b"a", user)
    answer = await join(people, other, headers=headers)
    assert answer.headers["Location"] == url
    assert (await join(people, url, headers=headers)).refused("ERR_INVALID_CONCAT")
    assert (await join(people, other, url, headers=headers)).refused("ERR_INVALID_CONCAT")
    again = await join(people, other, headers=headers)
    assert (again.status, again.headers["Location"]) == (201, url)
    assert (await join(people, other, other, headers=headers)).status == 409
    assert (await people.get(url, user)).body == b"a"


async def test_unfinished(unfinished: RawClient) -> None:
    """If the server allows it, a concatenation may come before its parts are complete, and is done when they are."""
    tus = unfinished
    assert "concatenation-unfinished" in (await tus.request("OPTIONS")).headers["Tus-Extension"].split(",")
    a, b = await tus.create(3, PARTIAL, b"ab"), await tus.create(headers={**PARTIAL, "Upload-Defer-Length": 1})
    answer = await join(tus, a, b, a)
    assert (answer.status, answer.offset) == (201, None)
    url = answer.headers["Location"]
    assert (await join(tus, a, b, a)).headers["Location"] == url

    async def waits() -> bool:
        head = await tus.head(url)
        return (head.status, head.offset, (await tus.get(url)).status) == (200, None, 404)

    assert await waits()
    assert "Upload-Length" not in (await tus.head(url)).headers
    known = await tus.head((await join(tus, a, a)).headers["Location"])
    assert (known.offset, known.headers["Upload-Length"]) == (None, "6")
    assert (await tus.head(url)).headers["Upload-Concat"] == f"final;{a} {b} {a}"
    assert (await tus.patch(url, 0, b"x")).status == 403
    assert (await tus.patch(a, 2, b"c")).status == 204
    assert await waits()
    assert (await tus.patch(b, 0, b"d", {"Upload-Length": 1})).status == 204
    head = await tus.head(url)
    assert (head.offset, head.headers["Upload-Length"]) == (7, "7")
    assert (await tus.get(url)).body == b"abcdabc"


async def test_unfinished_of_a_part_that_ends(unfinished: RawClient) -> None:
    """A concatenation that waits for a part that is removed will never be, and says so."""
    a = await unfinished.create(3, PARTIAL)
    url = (await join(unfinished, a)).headers["Location"]
    assert (await unfinished.delete(a)).status == 204
    answer = await unfinished.head(url)
    assert (answer.status, answer.offset) == (410, None)


async def test_wrong_members_of_unfinished(unfinished: RawClient) -> None:
    """Waiting is for parts; what is none is refused there too."""
    tus = unfinished
    waiting = (await join(tus, await tus.create(3, PARTIAL))).headers["Location"]
    for wrong in (await tus.create(1), waiting, tus.url + "unknown"):
        assert (await join(tus, wrong)).refused("ERR_INVALID_CONCAT")

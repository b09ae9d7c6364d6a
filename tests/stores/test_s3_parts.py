"""The arithmetic of parts, segments, copies and checksums."""

from datetime import UTC, datetime, timedelta

import crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tusd_py.models import Part, Segment
from tusd_py.stores import s3_parts
from tusd_py.stores.s3_parts import (
    COPY_BYTES,
    MAX_OBJECT,
    MAX_PARTS,
    MIB,
    MIN_PART,
    FoundSegment,
    Listed,
    chain,
    combined,
    contiguous,
    copy_plan,
    parse_segment,
    part_size_for,
    segment_name,
    whole_crc,
)

GIB = 1024 * MIB
T0 = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds: int) -> datetime:
    return T0 + timedelta(seconds=seconds)


# Sizes


@pytest.mark.parametrize(
    ("length", "max_size", "size"),
    [
        (0, None, 8 * MIB),
        (1, None, 8 * MIB),
        (80_000 * MIB, None, 8 * MIB),
        (80_000 * MIB + 1, None, 9 * MIB),
        (5 * MIB, 5 * 1024 * GIB, 8 * MIB),
        (None, 10 * GIB, 8 * MIB),
        (None, 100 * GIB, 11 * MIB),
        (None, None, 525 * MIB),
        (MAX_OBJECT, None, 525 * MIB),
    ],
)
def test_part_size(length: int | None, max_size: int | None, size: int) -> None:
    """Parts are as small as wanted, unless the largest size that is allowed would need more than 10,000."""
    assert part_size_for(length, max_size, 8 * MIB) == size


@given(st.integers(0, MAX_OBJECT), st.integers(MIN_PART, 64 * MIB))
def test_everything_fits(length: int, wanted: int) -> None:
    """Whatever the length, 10,000 parts are enough, and no part is smaller than wanted or larger than allowed."""
    size = part_size_for(length, None, wanted)
    assert size * MAX_PARTS >= length
    assert wanted <= size <= s3_parts.MAX_PART


# Listings


def test_parts_that_are_listed_twice() -> None:
    """Of several attempts at one part the newest counts, in whatever order they are listed."""
    listed = [Listed(1, 10, "old", at(0)), Listed(1, 10, "new", at(2)), Listed(2, 10, "two", at(1))]
    for order in (listed, listed[::-1]):
        assert contiguous(order, 10, None) == (Part(10, "new"), Part(10, "two"))
    same_second = [Listed(1, 10, "first", at(0)), Listed(1, 10, "second", at(0))]
    assert contiguous(same_second, 10, None) == (Part(10, "second"),)


@pytest.mark.parametrize(
    ("sizes", "length", "count"),
    [
        ({1: 10, 2: 10, 3: 10}, None, 3),
        ({1: 10, 3: 10}, None, 1),
        ({2: 10}, None, 0),
        ({1: 10, 2: 7, 3: 10}, None, 1),
        ({1: 10, 2: 7}, 17, 2),
        ({1: 10, 2: 7}, 18, 1),
        ({1: 7}, 7, 1),
        ({}, None, 0),
    ],
)
def test_gaps(sizes: dict[int, int], length: int | None, count: int) -> None:
    """Parts count up to the first gap, and up to the first of another size unless it ends the upload."""
    listed = [Listed(number, size, f"e{number}", T0) for number, size in sizes.items()]
    assert len(contiguous(listed, 10, length)) == count


def test_segment_names() -> None:
    """A segment's name tells where it begins and its checksum; other names tell nothing."""
    name = segment_name(8 * MIB, 0xE3069283, "a1b2")
    assert parse_segment(name, 9, T0) == FoundSegment(Segment(9, name, 0xE3069283), 8 * MIB, T0)
    for wrong in ("", "x", "123", name[1:], name.replace("-", "_"), name.replace("e306", "zzzz"), name + "/x"):
        assert parse_segment(wrong, 9, T0) is None


def found(offset: int, size: int, token: str, modified: int = 0) -> FoundSegment:
    return FoundSegment(Segment(size, token, 0), offset, at(modified))


def test_chain_of_segments() -> None:
    """Segments count as far as they follow each other from where the parts end."""
    segments = [found(20, 5, "c"), found(10, 10, "b"), found(0, 10, "a"), found(26, 5, "gap")]
    assert [segment.name for segment in chain(segments, 10, None)] == ["b", "c"]
    assert chain(segments, 11, None) == ()
    assert [segment.name for segment in chain(segments, 10, 24)] == ["b"]


def test_segments_at_the_same_place() -> None:
    """Of several segments at one offset the newest counts, and of equally new ones the longest."""
    assert [s.name for s in chain([found(0, 9, "old"), found(0, 4, "new", 1), found(4, 2, "next")], 0, None)] == [
        "new",
        "next",
    ]
    assert [s.name for s in chain([found(0, 9, "long"), found(0, 4, "short")], 0, None)] == ["long"]


# Copies


@pytest.mark.parametrize(
    ("sizes", "plan"),
    [
        ([], []),
        ([0, 0], []),
        ([3], [[(0, 0, 3)]]),
        ([3, 0, 4], [[(0, 0, 3), (2, 0, 4)]]),
        ([MIN_PART, MIN_PART], [[(0, 0, MIN_PART)], [(1, 0, MIN_PART)]]),
        ([MIN_PART, 1], [[(0, 0, MIN_PART)], [(1, 0, 1)]]),
        ([1, 2 * MIN_PART], [[(0, 0, 1), (1, 0, MIN_PART - 1)], [(1, MIN_PART - 1, 2 * MIN_PART)]]),
        ([1, 2 * MIN_PART - 2], [[(0, 0, 1), (1, 0, 2 * MIN_PART - 2)]]),
        ([COPY_BYTES + 2], [[(0, 0, COPY_BYTES // 2 + 1)], [(0, COPY_BYTES // 2 + 1, COPY_BYTES + 2)]]),
    ],
)
def test_copy_plan(sizes: list[int], plan: list[list[tuple[int, int, int]]]) -> None:
    """Large members are copied in ranges, small ones are put together with what follows."""
    assert [[tuple(span) for span in part] for part in copy_plan(sizes)] == plan


def test_largest_copy() -> None:
    """The largest object that can be is copied in no more parts than there can be."""
    plan = copy_plan([MAX_OBJECT // 2, 1, MAX_OBJECT // 2 - 1])
    assert 4000 < len(plan) <= MAX_PARTS
    assert all(span.size <= s3_parts.MAX_PART for part in plan for span in part)


@given(st.lists(st.one_of(st.integers(0, 3 * MIN_PART), st.integers(0, 12 * GIB)), max_size=40))
def test_every_copy_plan(sizes: list[int]) -> None:
    """A plan has every byte once and in order, no part is too small or too large, and little has to be read."""
    plan = copy_plan(sizes)
    spans = [span for part in plan for span in part]
    assert all(span.size > 0 for span in spans)
    for source, size in enumerate(sizes):
        position = 0
        for span in (span for span in spans if span.source == source):
            assert span.start == position
            position = span.stop
        assert position == size
    assert [span.source for span in spans] == sorted(span.source for span in spans)
    totals = [sum(span.size for span in part) for part in plan]
    assert all(MIN_PART <= total <= COPY_BYTES for total in totals[:-1])
    assert len(plan) <= MAX_PARTS
    assert all(total < 3 * MIN_PART for part, total in zip(plan, totals, strict=True) if len(part) > 1)


# Checksums


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_combined_checksums(first: bytes, second: bytes) -> None:
    """The checksum of the whole follows from those of its halves."""
    assert combined(crc32c.crc32c(first), crc32c.crc32c(second), len(second)) == crc32c.crc32c(first + second)


def test_checksum_of_many_parts() -> None:
    """The checksum of large parts adds up, and is unknown if one is."""
    parts = [bytes([number]) * 100_000 for number in range(5)]
    known = [Part(len(part), "", crc32c.crc32c(part)) for part in parts]
    assert whole_crc(known) == crc32c.crc32c(b"".join(parts))
    assert whole_crc([*known, Part(5, "")]) is None
    assert whole_crc([]) == 0

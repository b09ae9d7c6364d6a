"""The arithmetic of parts: what fits where, what a listing tells, how checksums add up. Nothing here waits or calls.

S3 makes an object of up to 10,000 numbered parts. All parts of an upload but the last have one size, chosen when the
upload is created, so that part N always covers the same bytes: repeating it after a crash replaces it by itself, and
services that demand equal parts (Cloudflare R2) are content.

Sources: https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html for the limits; zlib's crc32_combine for the
sum of checksums, with the polynomial of CRC-32C.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

from tusd_py.models import Part, Segment

MIB = 1024 * 1024
MIN_PART = 5 * MIB
"""Every part but the last has at least this size."""
MAX_PART = 5 * 1024 * MIB
MAX_PARTS = 10_000
MAX_OBJECT = 5 * 1024 * 1024 * MIB
COPY_BYTES = 256 * MIB
"""A copy inside the storage takes ranges up to this size, so that several can run at once and none takes long."""


def part_size_for(length: int | None, max_size: int | None, wanted: int) -> int:
    """Return the part size with which the largest size that the upload may have fits into 10,000 parts."""
    largest = length if length is not None else max_size if max_size is not None else MAX_OBJECT
    needed = math.ceil(largest / MAX_PARTS)
    return max(wanted, math.ceil(needed / MIB) * MIB)


class Listed(NamedTuple):
    """One part of a multipart upload as the storage lists it."""

    number: int
    size: int
    etag: str
    modified: datetime
    crc: int | None = None


def contiguous(listed: Iterable[Listed], part_size: int, length: int | None) -> tuple[Part, ...]:
    """Return the parts from the first on without a gap.

    Of a number that is listed more than once, as SeaweedFS does with parts that were sent again, the newest counts. A
    part of another size is not ours, unless it ends the upload.
    """
    newest: dict[int, Listed] = {}
    for part in listed:
        known = newest.get(part.number)
        # Equally new ones are listed in the order in which they came.
        if known is None or part.modified >= known.modified:
            newest[part.number] = part
    parts: list[Part] = []
    offset = 0
    while found := newest.get(len(parts) + 1):
        if found.size != part_size and offset + found.size != length:
            break
        parts.append(Part(found.size, found.etag, found.crc))
        offset += found.size
    return tuple(parts)


class FoundSegment(NamedTuple):
    """One segment as the storage lists it."""

    segment: Segment
    offset: int
    modified: datetime


def segment_name(offset: int, crc: int, token: str) -> str:
    """Return the name of a segment; `token` tells it from others at the same offset."""
    return f"{offset:015d}-{crc:08x}-{token}"


def parse_segment(name: str, size: int, modified: datetime) -> FoundSegment | None:
    """Return what a segment's name says, or None if it is no such name."""
    offset, _, rest = name.partition("-")
    crc, _, token = rest.partition("-")
    if not (len(offset) == 15 and offset.isdecimal() and len(crc) == 8 and token.isalnum()):
        return None
    try:
        return FoundSegment(Segment(size, name, int(crc, 16)), int(offset), modified)
    except ValueError:
        return None


def chain(found: Iterable[FoundSegment], start: int, length: int | None) -> tuple[Segment, ...]:
    """Return the segments that follow each other from `start` on; of several at one offset the newest."""
    by_offset: dict[int, FoundSegment] = {}
    for item in found:
        known = by_offset.get(item.offset)
        if item.segment.size and (
            known is None or (item.modified, item.segment.size) >= (known.modified, known[0].size)
        ):
            by_offset[item.offset] = item
    chosen: list[Segment] = []
    offset = start
    while (next_one := by_offset.get(offset)) and (length is None or offset + next_one.segment.size <= length):
        chosen.append(next_one.segment)
        offset += next_one.segment.size
    return tuple(chosen)


class Span(NamedTuple):
    """The bytes `[start, stop)` of one member of a concatenation."""

    source: int
    start: int
    stop: int

    @property
    def size(self) -> int:
        """How many bytes that are."""
        return self.stop - self.start


def copy_plan(sizes: Sequence[int], piece: int = COPY_BYTES) -> list[list[Span]]:
    """Return the parts of a concatenation of objects of these sizes, each as the spans that make it.

    A part of one span of at least `MIN_PART` can be copied inside the storage; all others are small and have to be read
    and sent. What is too small for a part is put together with the begin of what follows.
    """
    limit = max(piece, math.ceil(sum(sizes) / (MAX_PARTS // 2)))
    parts: list[list[Span]] = []
    small: list[Span] = []
    for source, size in enumerate(sizes):
        start = 0
        if small:
            missing = MIN_PART - sum(span.size for span in small)
            # What would be left has to be big enough for a part of its own.
            start = size if size - missing < MIN_PART else missing
            if start:
                small.append(Span(source, 0, start))
            if sum(span.size for span in small) >= MIN_PART:
                parts.append(small)
                small = []
        if 0 < size - start < MIN_PART:
            small.append(Span(source, start, size))
        elif size > start:
            parts += [[Span(source, *cut)] for cut in _even(start, size, limit)]
    if small:
        parts.append(small)
    return parts


def _even(start: int, stop: int, limit: int) -> list[tuple[int, int]]:
    """Cut a range into pieces of nearly the same size, none above `limit`."""
    count = math.ceil((stop - start) / limit)
    cuts = [start + (stop - start) * number // count for number in range(count + 1)]
    return list(itertools.pairwise(cuts))


def whole_crc(pieces: Iterable[Part | Segment]) -> int | None:
    """Return the CRC-32C of pieces one after the other, or None if that of one is not known."""
    whole = 0
    for piece in pieces:
        if piece.crc is None:
            return None
        whole = combined(whole, piece.crc, piece.size)
    return whole


def combined(first: int, second: int, length: int) -> int:
    """Return the CRC-32C of two texts one after the other, from theirs and the length of the second."""
    return _times(_zeros(length), first) ^ second


Matrix = tuple[int, ...]
_ONE_BIT: Matrix = (0x82F63B78, *(1 << number for number in range(31)))


def _times(matrix: Matrix, vector: int) -> int:
    total = 0
    for row in matrix:
        if vector & 1:
            total ^= row
        vector >>= 1
    return total


def _product(left: Matrix, right: Matrix) -> Matrix:
    return tuple(_times(left, row) for row in right)


@functools.lru_cache(64)
def _zeros(length: int) -> Matrix:
    """Return what `length` zero bytes behind a text do to its checksum."""
    step = _ONE_BIT
    for _ in range(3):
        step = _product(step, step)
    result: Matrix = tuple(1 << number for number in range(32))
    while length:
        if length & 1:
            result = _product(step, result)
        step = _product(step, step)
        length >>= 1
    return result

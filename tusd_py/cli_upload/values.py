"""What can be given to `tusd-py upload` as text, and what is said of a mistake."""

from __future__ import annotations

import os
import re
from urllib.parse import urlsplit

import click

from tusd_py.units import format_size, parse_size

LARGEST_CHUNK = 2**30
HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# What the protocol sets itself; another value would break the upload.
RESERVED_HEADER = re.compile(r"(tus-|upload-|content-).*|transfer-encoding|host|expect|connection", re.IGNORECASE)


def chunk_size(text: str) -> int:
    """Parse a size such as 64MiB."""
    try:
        size = parse_size(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    if not 1 <= size <= LARGEST_CHUNK:
        limit = format_size(LARGEST_CHUNK)
        raise click.BadParameter(f"{text!r} is not between 1 byte and {limit}; a chunk is held in memory")
    return size


def endpoint(text: str) -> str:
    """Check the address of a tus endpoint; a password in it is never repeated."""
    try:
        parts = urlsplit(text)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        has_password = "@" in parts.netloc
    except ValueError:
        is_address = has_password = False
    if has_password:
        raise click.BadParameter("leave the password out of the address; use --header 'Authorization: ...'")
    if not is_address:
        raise click.BadParameter(f"{text!r} is not an upload address; those begin with http:// or https://")
    return text


def header(text: str) -> tuple[str, str]:
    """Split a request header; its value is never shown, not even when it is wrong."""
    name, colon, value = (part.strip() for part in text.partition(":"))
    if not colon or not HEADER_NAME.fullmatch(name):
        raise click.BadParameter("a header is written 'Name: value'")
    if RESERVED_HEADER.fullmatch(name):
        raise click.BadParameter(f"the header {name} belongs to the protocol and cannot be set")
    if not value.isprintable() or not value.isascii():
        raise click.BadParameter(f"the value of {name} has characters that a header cannot carry")
    return name, value


def metadata(text: str) -> tuple[str, str]:
    """Split an item of metadata."""
    key, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"[!-+\--~]+", key):  # ASCII without space and comma
        raise click.BadParameter(f"{text!r} is not KEY=VALUE with a KEY in ASCII without space and comma")
    return key, os.fsencode(value).decode("utf-8", "replace")

"""Uploads one file with tuspy and prints one JSON object per line: every offset that tuspy learns.

The only argument is a JSON object:

    file, endpoint      what to send, and where uploads are created
    url_storage         a file that remembers upload URLs, so that the next run resumes where this one stopped
    bytes_per_second    how fast to send

and any other option of tuspy's uploader.
"""

import json
import socket
import sys
from typing import Any

from tusclient.client import TusClient
from tusclient.storage.filestorage import FileStorage
from urllib3.connection import HTTPConnection

# The kernel sends no faster than this socket option says; the number is Linux's, Python does not name it.
SO_MAX_PACING_RATE = 47


def report(**event: Any) -> None:
    """Print one line at once, so that a killed client has reported everything it learned."""
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def main(
    file: str,
    endpoint: str,
    url_storage: str | None = None,
    bytes_per_second: int | None = None,
    **options: Any,
) -> None:
    """Upload the file to its end."""
    if bytes_per_second:
        HTTPConnection.default_socket_options.append((socket.SOL_SOCKET, SO_MAX_PACING_RATE, bytes_per_second))
    if url_storage:
        options |= {"store_url": True, "url_storage": FileStorage(url_storage)}
    uploader = TusClient(endpoint).uploader(file, **options)
    if uploader.url is None:
        uploader.set_url(uploader.create_url())
    report(url=uploader.url, offset=uploader.offset)
    while uploader.offset < uploader.stop_at:
        uploader.upload_chunk()
        report(url=uploader.url, offset=uploader.offset)
    report(finished=uploader.url)


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))

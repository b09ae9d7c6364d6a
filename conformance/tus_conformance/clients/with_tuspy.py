"""Uploads one file with tuspy. Besides what every task has, one may have

stop_at     the byte to stop at, where another run goes on
url         the upload to go on with

and any other option of tuspy's uploader.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from tusclient.client import TusClient


def main(
    endpoint: str,
    headers: dict[str, str],
    file: str,
    stop_at: int | None = None,
    url: str | None = None,
    **options: Any,
) -> None:
    """Do one task."""
    uploader = TusClient(endpoint, headers=headers).uploader(file, url=url, retries=5, retry_delay=1, **options)
    if url is None:
        uploader.set_url(uploader.create_url())
        _tell(created=uploader.url)
    uploader.upload(stop_at)
    _tell(finished=uploader.url)


def _tell(**event: str | None) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(**json.load(sys.stdin))

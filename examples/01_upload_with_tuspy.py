"""Uploads a file with tuspy, and goes on where it was if it is run again after an interruption.

python examples/01_upload_with_tuspy.py FILE [URL]
"""

import sys
from pathlib import Path

from tusclient.client import TusClient
from tusclient.storage.filestorage import FileStorage

path = Path(sys.argv[1])
url = sys.argv[2] if len(sys.argv) > 2 else "http://127.0.0.1:8080/files/"

uploader = TusClient(url).uploader(
    str(path),
    chunk_size=8 * 1024 * 1024,
    metadata={"filename": path.name},
    retries=5,
    retry_delay=2,
    # Remembers the address of the upload, so that the next run asks the server how much it has.
    store_url=True,
    url_storage=FileStorage(".tuspy-uploads.json"),
)
while uploader.offset < uploader.get_file_size():
    uploader.upload_chunk()
    print(f"{uploader.offset} of {uploader.get_file_size()} bytes", file=sys.stderr)
print(uploader.url)

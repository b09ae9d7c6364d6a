"""Follows an upload by the server's events, and ends when it is complete or gone.

python examples/04_follow_an_upload.py UPLOAD-URL
"""

import json
import sys
from urllib.parse import urlsplit

import requests

url = urlsplit(sys.argv[1])
events = f"{url.scheme}://{url.netloc}/api/uploads/{url.path.rpartition('/')[2]}/events"

with requests.get(events, stream=True, timeout=60) as answer:
    answer.raise_for_status()
    for line in answer.iter_lines():
        name, _, value = line.decode().partition(": ")
        if name == "data":
            upload = json.loads(value)
            print(f"{upload['status']}: {upload['offset']} of {upload['length']} bytes", flush=True)

"""resumable-upload with its store for S3, which its command does not offer; the bucket comes from the environment."""

import os
import sys
from http.server import ThreadingHTTPServer

import boto3
from resumable_upload.server import TusHTTPRequestHandler, TusServer
from resumable_upload.storage.s3_storage import S3Storage


class Handler(TusHTTPRequestHandler):
    tus_server = TusServer(
        S3Storage(os.environ["S3_BUCKET"], boto3.client("s3", endpoint_url=os.environ["S3_ENDPOINT"])),
        base_path="/files",
    )


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()

"""tuspyserver as an ASGI application; its directory or bucket comes from the environment."""

import os

import boto3
from fastapi import FastAPI
from tuspyserver import create_tus_router
from tuspyserver.storage.s3 import S3Storage

endpoint = os.environ.get("S3_ENDPOINT")
storage = S3Storage(os.environ["S3_BUCKET"], boto3.client("s3", endpoint_url=endpoint), prefix="") if endpoint else None
app = FastAPI()
app.include_router(
    create_tus_router(prefix="files", files_dir=os.environ["TUS_DIRECTORY"], max_size=1 << 40, storage=storage)
)

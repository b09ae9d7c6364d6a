"""Sends a file to S3 by boto3's `upload_file`, as many parts at once as tusd-py does; prints how long that took."""

import os
import sys
import time

import boto3
from boto3.s3.transfer import TransferConfig

source, concurrency, part_size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
client = boto3.client("s3", endpoint_url=os.environ["S3_ENDPOINT"])
config = TransferConfig(multipart_chunksize=part_size, max_concurrency=concurrency)
started = time.perf_counter()
client.upload_file(source, os.environ["S3_BUCKET"], "boto3", Config=config)
print(time.perf_counter() - started)

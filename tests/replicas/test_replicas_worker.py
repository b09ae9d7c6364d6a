"""Jobs of uploads that replicas take are done by the worker of deploy/docker-compose.yml."""

import json

from tusd_py.testing.contracts import wait_until
from tusd_py.testing.raw import RawClient


async def test_the_worker_does_the_jobs(services, tus, direct):
    """The worker is well, and what any replica takes it describes and delivers, from S3 and records in Redis."""
    worker = services.services["worker"]
    pages = RawClient(f"http://{worker.address}/")
    assert (await pages.get("/readyz")).status == 200
    for client in (tus, *direct):
        url = await client.create(5, body=b"hello")

        async def is_done(url=url):
            shown = json.loads((await tus.get(f"/api/uploads/{url.rpartition('/')[2]}")).body)
            return all(job["status"] == "done" for job in shown["jobs"]) and shown["jobs"]

        described, delivered = await wait_until(is_done)
        assert described["result"] == {"pid": worker.pid}
        assert delivered["worker"] == described["worker"]

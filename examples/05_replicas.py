"""Two replicas of tusd-py behind nginx, with S3 and Redis beside them: deploy/docker-compose.yml without Docker.

    scripts/replicas                 on a free port
    scripts/replicas --port 8080     on this one

Everything runs on the loopback interface, keeps its data in a temporary directory, and ends with Ctrl-C. It needs
nginx; SeaweedFS and Valkey come with `scripts/setup --dev`. While it runs, stop, kill or pause a replica, and see what
clients make of it.
"""

import argparse
import signal
import sys
from pathlib import Path
from typing import NoReturn

from tusd_py.testing.replicas import Replicas, ReplicasError

COMPOSE_FILE = Path(__file__).parents[1] / "deploy" / "docker-compose.yml"


def interrupt(*_: object) -> NoReturn:
    """End as Python does with Ctrl-C."""
    raise KeyboardInterrupt


def main() -> None:
    """Start everything, say where, and stop it when told to."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--port", type=int, default=0, help="where nginx listens; a free port by default")
    port = parser.parse_args().port
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    try:
        with Replicas(COMPOSE_FILE, port) as replicas:
            for service in replicas.services.values():
                print(f"{service.name} runs as process {service.pid} at {service.address}", file=sys.stderr)
            print(f"You can now upload files to: {replicas.url}", flush=True)
            try:
                signal.pause()
            finally:
                print("stopping; uploads that run may finish", file=sys.stderr)
    except ReplicasError as error:
        sys.exit(f"replicas: {error}")
    except KeyboardInterrupt:
        return


if __name__ == "__main__":
    main()

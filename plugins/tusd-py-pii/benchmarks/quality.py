"""Measures precision and recall of each type on the labelled set, and writes the table in docs/pii.md.

python plugins/tusd-py-pii/benchmarks/quality.py            prints it
python plugins/tusd-py-pii/benchmarks/quality.py --write    writes it into docs/pii.md
`scripts/pii-extras --write` writes those of names, which need a model.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from labelled import examples
from tusd_py_pii.detector import Detector
from tusd_py_pii.rules import built_in
from tusd_py_pii.text import encode, fold, places

COUNT = 20_000
DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "pii.md"


class Score:
    """What was found of what is there."""

    def __init__(self) -> None:
        self.there: Counter[str] = Counter()
        self.right: Counter[str] = Counter()
        self.wrong: Counter[str] = Counter()
        self.groups_there: Counter[str] = Counter()
        self.groups_right: Counter[str] = Counter()
        self.wrong_in: Counter[tuple[str, str]] = Counter()
        self.shown: list[str] = []

    def recall(self, kind: str) -> float:
        return self.right[kind] / self.there[kind]

    def precision(self, kind: str) -> float:
        total = self.right[kind] + self.wrong[kind]
        return self.right[kind] / total if total else 1.0


def measure(count: int, seed: int = 7, engine: str = "auto") -> Score:
    """Return the score on so many examples."""
    detector = Detector(built_in(), engine)
    score = Score()
    for example in examples(count, seed):
        at = places(example.text)
        found = [
            (hit.start - 1, hit.stop - 1, detector.rules[hit.rule].type)
            for hit in detector.hits(b"\0" + encode(fold(example.text)) + b"\0")
        ]
        for first, last, kind in example.labels:
            start, stop = at[first], at[last]
            score.there[kind] += 1
            score.groups_there[example.group] += 1
            # Most of the value has to be found, or else a redacted copy would show it.
            covered = max((min(stop, b) - max(start, a) for a, b, name in found if name == kind), default=0)
            is_right = covered >= 0.8 * (stop - start) if kind not in ("address", "credential") else covered > 0
            score.right[kind] += is_right
            score.groups_right[example.group] += is_right
            if not is_right:
                score.shown.append(f"MISSED {kind} {example.group}: {example.text[:100]!r}")
        for start, stop, kind in found:
            if not any(start < at[last] and stop > at[first] and kind == name for first, last, name in example.labels):
                score.wrong[kind] += 1
                score.wrong_in[kind, example.group] += 1
                score.shown.append(f"WRONG {kind} {example.group}: {example.text[:100]!r}")
    return score


def table(score: Score) -> str:
    """Return the tables in Markdown."""
    lines = ["| Type | Values | Recall | Precision | Taken for one, most often |", "| --- | --- | --- | --- | --- |"]
    for kind in sorted(score.there):
        wrong = [f"{group} ({count})" for (name, group), count in score.wrong_in.most_common() if name == kind][:3]
        lines.append(
            f"| {kind} | {score.there[kind]} | {score.recall(kind):.3f} | {score.precision(kind):.3f} |"
            f" {', '.join(wrong)} |"
        )
    lines += ["", "| Group | Values | Recall |", "| --- | --- | --- |"]
    lines += [
        f"| {group} | {count} | {score.groups_right[group] / count:.3f} |"
        for group, count in sorted(score.groups_there.items())
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print or write the table."""
    if "--write-names" in sys.argv:
        figures = Path(sys.argv[sys.argv.index("--write-names") + 1]).read_text("utf-8")
        head = "| Type | Values | Recall | Precision |\n| --- | --- | --- | --- |\n"
        into_document("names", head + figures)
        return
    score = measure(COUNT)
    text = table(score)
    if "--show" in sys.argv:
        print("\n".join(score.shown[:: max(1, len(score.shown) // 150)]))
    print(text)
    if "--write" in sys.argv:
        into_document("quality", text)


def into_document(part: str, text: str) -> None:
    """Write a measured part of docs/pii.md."""
    before = DOCUMENT.read_text("utf-8")
    marks = re.compile(rf"(<!-- measured: {part} -->\n).*?(<!-- end -->)", re.DOTALL)
    DOCUMENT.write_text(marks.sub(lambda match: f"{match[1]}\n{text}\n{match[2]}", before), "utf-8")


if __name__ == "__main__":
    main()

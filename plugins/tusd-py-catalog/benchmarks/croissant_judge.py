"""Has mlcroissant validate the documents that croissant_make.py wrote, and load the rows through them.

The second half of `scripts/check-croissant`, in an environment that has mlcroissant.
"""

import sys
from pathlib import Path

import mlcroissant


def main(folder: Path) -> None:
    """Judge every document; fail at the first that is not as it should be."""
    documents = sorted(folder.glob("*.croissant.json"))
    assert len(documents) == 4, documents
    for document in documents:
        data = document.with_name(document.name.removesuffix(".croissant.json"))
        dataset = mlcroissant.Dataset(jsonld=str(document), mapping={"file": str(data)})
        issues = dataset.metadata.ctx.issues
        assert not issues.errors, issues.report()
        rows = list(dataset.records("rows"))
        assert len(rows) == 20, (data.name, len(rows))
        assert int(rows[7]["rows/id"]) == 7, rows[7]
        assert rows[7]["rows/page%20url"] in (b"https://example.org/7", "https://example.org/7"), rows[7]
        print(
            f"{data.name}: accepted, {len(rows)} rows of {len(rows[0])} fields loaded, {len(issues.warnings)} warnings"
        )
        for warning in issues.warnings:
            print(f"    {warning}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

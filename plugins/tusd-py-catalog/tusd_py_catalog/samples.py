"""Keeps personal data out of what is stored: redacts samples, and withholds what only one person's value can be.

tusd-py-pii does the redaction, with its built-in rules and those of the operator. Without it no row is stored.
"""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from tusd_py_catalog.facts import Field
from tusd_py_catalog.semantics import is_personal

if TYPE_CHECKING:
    from tusd_py_pii.detector import Detector

SHOWN = 300
"""Characters of a text in a sample; it is redacted before it is cut."""
WITHHELD = "[WITHHELD]"
MAX_NAME = 100
EXACT = 100_000_000
"""Whole numbers from here on can be numbers of phones, cards or people: only their size is told."""


def rules() -> bytes | None:
    """Return the rules for redaction, for another process; None if tusd-py-pii is not installed."""
    if importlib.util.find_spec("tusd_py_pii") is None:
        return None
    import tusd_py_pii
    from tusd_py_pii.rules import built_in

    # What the operator lets pass in uploads still has no place in a sample: the built-in rules are always there.
    known = {rule.name: rule for rule in (*built_in(), *tusd_py_pii.chosen.rules())}
    return msgspec.json.encode(tuple(known.values()))


class Redactor:
    """Redacts with rules, if there are any."""

    def __init__(self, encoded: bytes | None) -> None:
        self._detector: Detector | None = None
        if encoded is not None:
            from tusd_py_pii.detector import Detector
            from tusd_py_pii.rules import Rule

            # Hyperscan takes longer to get ready than these few rows take with `re`.
            self._detector = Detector(msgspec.json.decode(encoded, type=tuple[Rule, ...]), "re")

    def label(self, name: str, number: int) -> str:
        """Return a field's name, or another one if it looks like a value: a CSV may have no header."""
        is_name = name.isprintable() and 0 < len(name) <= MAX_NAME and "@" not in name
        if not is_name or len(re.findall(r"\d", name)) >= 7 or self._redacted(name, "") != name:
            return f"field{number + 1}"
        return name

    def field(self, field: Field) -> Field:
        """Return a field without what can be the value of one person."""
        if is_personal(field.name):
            return msgspec.structs.replace(field, min=None, max=None, mean=None)
        return msgspec.structs.replace(field, min=self._bound(field, field.min), max=self._bound(field, field.max))

    def _bound(self, field: Field, value: Any) -> Any:
        if isinstance(value, float) and value.is_integer() and abs(value) >= EXACT:
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or abs(value) < EXACT:
            return value
        return value if field.semantic == "timestamp" else float(f"{value:.1e}")

    def sample(self, rows: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
        """Return rows with `[EMAIL]` in the place of an address; none without rules."""
        if self._detector is None:
            return ()
        return tuple({name: self._shown(value, name) for name, value in row.items()} for row in rows)

    def _shown(self, value: Any, name: str) -> Any:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, dict):
            return {key: self._shown(each, key) for key, each in value.items()}
        if isinstance(value, list):
            return [self._shown(each, name) for each in value]
        if is_personal(name):
            return WITHHELD
        if isinstance(value, float) and math.isfinite(value) and value.is_integer():
            return value if abs(value) < EXACT else self._shown(int(value), name)
        value = self._redacted(value, name)
        return value[:SHOWN] + "…" if isinstance(value, str) and len(value) > SHOWN else value

    def _redacted(self, value: Any, name: str) -> Any:
        if self._detector is None:
            return value
        from tusd_py_pii.redact import redacted_values

        [value], _ = redacted_values([value], name, self._detector, ())
        return value

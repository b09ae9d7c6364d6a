"""Keeps personal data out of what is stored: redacts samples, and withholds what only one person's value can be.

tusd-py-pii does the redaction, with its built-in rules and those of the operator. Without it no row is stored.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from tusd_py_catalog.columns import SHOWN_CHARACTERS
from tusd_py_catalog.facts import Field
from tusd_py_catalog.semantics import is_personal

if TYPE_CHECKING:
    from tusd_py_pii.detector import Detector

SHOWN = 300
"""Characters of a text in a sample; it is redacted before it is cut."""
WITHHELD = "[WITHHELD]"
MAX_NAME = 100
LONGEST = 256
"""No value that is looked for has more characters."""
EXACT = 10_000_000
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

    def labels(self, names: Sequence[str]) -> list[str]:
        """Return the names of fields, with others for those that look like values: a CSV may have no header."""
        taken = {name.lower() for name in names}  # to SQL, names that differ in capitals are the same
        shown = []
        for number, name in enumerate(names, 1):
            label = name
            if not self._is_name(name):
                label = f"field{number}"
                while label in taken:
                    label += "_"
            shown.append(label)
        return shown

    def _is_name(self, name: str) -> bool:
        is_short = name.isprintable() and 0 < len(name) <= MAX_NAME and "@" not in name
        return is_short and len(re.findall(r"\d", name)) < 7 and self._redacted(name, "") == name

    def field(self, field: Field) -> Field:
        """Return a field without what can be the value of one person."""
        figures = {name: getattr(field, name) for name in ("min", "max", "mean")}
        for name, value in figures.items():
            figures[name] = None if is_personal(field.name) else _bound(field, value)
        return msgspec.structs.replace(field, **figures)

    def sample(self, rows: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
        """Return rows with `[EMAIL]` in the place of an address; none without rules."""
        return tuple(self._shown(row, "") for row in rows) if self._detector is not None else ()

    def _shown(self, value: Any, name: str, is_withheld: bool = False) -> Any:
        """Return a value as it may be shown; what is withheld is so with all that is in it."""
        is_withheld = is_withheld or is_personal(name)
        if value is None:
            return None
        if isinstance(value, dict):
            is_person = any(map(is_personal, value))
            return {
                key: self._shown(each, key, is_withheld or (is_person and key.lower() == "name"))
                for key, each in value.items()
            }
        if isinstance(value, list):
            return [self._shown(each, name, is_withheld) for each in value]
        if is_withheld:
            return WITHHELD
        if isinstance(value, bool):
            return value
        if isinstance(value, float) and math.isfinite(value) and value.is_integer():
            return value if abs(value) < EXACT else self._shown(int(value), name)
        if isinstance(value, str):
            return self._shown_text(value, name)
        return self._redacted(value, name)

    def _shown_text(self, text: str, name: str) -> str:
        is_cut = len(text) >= SHOWN_CHARACTERS
        if text.startswith(("{", "[")) and not is_cut:
            # Fields within JSON have names too.
            with contextlib.suppress(msgspec.DecodeError, RecursionError):
                text = msgspec.json.encode(self._shown(msgspec.json.decode(text), name)).decode()
        shown: str = self._redacted(text, name)
        if is_cut:
            shown = shown[:-LONGEST]  # where it was cut, there may be half of a value, which no rule knows
        return shown[:SHOWN] + "…" if is_cut or len(shown) > SHOWN else shown

    def _redacted(self, value: Any, name: str) -> Any:
        if self._detector is None:
            return value
        from tusd_py_pii.redact import redacted_values

        [value], _ = redacted_values([value], name, self._detector, ())
        return value


def _bound(field: Field, value: Any) -> Any:
    """Return the bound or the mean of a field, so exact that it is nobody's number and nobody's place."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if field.semantic == "coordinate":
        return round(value, 1)
    if abs(value) < EXACT or field.semantic == "timestamp" or not float(value).is_integer():
        return value
    return float(f"{value:.1e}")

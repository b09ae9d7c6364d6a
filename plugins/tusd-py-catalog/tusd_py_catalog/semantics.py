"""Guesses what the values of a field mean: by their form first, and by the field's name second.

No model, no network: rules that can be read. A guess needs most of the values that were looked at.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

ENOUGH = 0.9
"""Such a share of the values has to have a form."""
_LANGUAGES = re.compile(
    "a[abfkmnrsvyz]|b[aeghimnors]|c[aehorsuvy]|d[aevz]|e[elnostu]|f[afijory]|g[adlnuv]|h[aeiortuyz]|i[adegikostuw]|"
    "j[apv]|k[agijklmnorsuvwy]|l[abgilnotuv]|m[ghiklnrsty]|n[abdeglnorvy]|o[cjmrs]|p[ailst]|qu|r[mnouw]|"
    "s[acdegiklmnoqrstuvw]|t[aeghiklnorstwy]|u[gkrz]|v[eio]|w[ao]|xh|y[io]|z[ahu]|"
    "(?:ara|deu|eng|fra|hin|ita|jpn|kor|nld|pol|por|rus|spa|swe|tur|ukr|vie|zho)"
)
_CODE_LINE = re.compile(
    r"""^\s*(?: (?:def|class|import|func|let|const|var|package|public|private|static|pub\ fn|fn)\ | return\b | \#include
        | from\ \S+\ import\  | (?:if|for|while)\b.*[:{]$ | SELECT\ .*\ FROM\  | INSERT\ INTO\  | </?\w+[^>]*>
        | [\w.\[\]]+\ ?[-+]?=\ ?\S | [}\])];?$ | // | /\* | @\w+ | \w+\(.*\)[;:]?$ )
        | [;{]\s*$""",
    re.MULTILINE | re.VERBOSE,
)
_FORMS = {
    "uuid": r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    "url": r"[a-z][a-z0-9+.-]{1,15}://\S+",
    "email": r"[^@\s]{1,64}@[a-z0-9-]+(?:\.[a-z0-9-]+)+",
    "ip": r"(?:\d{1,3}\.){3}\d{1,3}|(?=[^:]*:[^:]*:)[0-9a-f:]{2,39}",
    "timestamp": r"[12]\d{3}-[01]\d-[0-3]\d[t ][0-2]\d:[0-5]\d(?::[0-6]\d(?:[.,]\d+)?)?(?:z|[+-]\d\d:?\d\d)?",
    "date": r"[12]\d{3}-[01]\d-[0-3]\d",
    "hash": r"[0-9a-f]{32}|[0-9a-f]{40}|[0-9a-f]{64}|[0-9a-f]{128}",
    "media_type": r"(?:application|audio|font|image|model|text|video)/[\w.+-]+",
    "path": r"(?:[\w.@-]{0,255}/)+[\w.@-]{1,255}\.[a-z0-9]{1,8}",
    "number": r"[-+]?\d+(?:[.,]\d+)?(?:e[-+]?\d+)?",
}
_PATTERNS = {name: re.compile(pattern, re.IGNORECASE) for name, pattern in _FORMS.items()}
_ROLES = frozenset({"system", "user", "assistant", "tool", "human", "gpt", "function", "developer"})
_PERSONAL = re.compile(
    r"birth|born|passport|phone|mobile|salary|income|patient|diagnos|surname|address|account|iban|e_?mail|"
    r"(?:first|last|full|given|family|middle|maiden|user|customer|client|person|employee|contact)_?name|"
    r"(?:credit|debit|bank|id)_?card|card_?(?:no|num|holder)|post_?code|zip_?code|social_?(?:sec|ins)|tax_?(?:id|no|num)|"
    r"(?<![a-z])(?:dob|ssn|sin|nin|fax|zip|card|cell|tel|tax|postal|street|social|wages?|ages?|gender|sex|race|religion|"
    r"ethnicity|nationality|whatsapp)(?![a-z])",
    re.IGNORECASE,
)


@functools.lru_cache(10_000)
def is_personal(name: str) -> bool:
    """Whether a field's name says that each of its values may be about one person."""
    return _PERSONAL.search(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)) is not None


def semantic_type(name: str, kind: str, values: Sequence[Any], distinct: float) -> str | None:
    """Return what a field means, or None if that cannot be told.

    Args:
        name: the field's name.
        kind: its type.
        values: some of its values, none of them null.
        distinct: the share of all its values that differ, from 0 to 1.
    """
    last = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.rpartition(".")[2]).lower().removesuffix("[]")
    if kind in ("timestamp", "date", "time"):
        return kind
    if kind == "boolean":
        return "flag"
    if kind == "list":
        return _of_list(last, values)
    if kind in ("integer", "number"):
        return _of_numbers(last, values, distinct)
    if kind != "string":
        return None
    texts = [value for value in values if isinstance(value, str) and value.strip()]
    return _of_texts(last, texts, distinct) if texts else None


def _of_texts(name: str, texts: list[str], distinct: float) -> str | None:
    for form, pattern in _PATTERNS.items():
        if _share(texts, pattern.fullmatch) >= ENOUGH:
            if form in ("hash", "number") and re.search(r"(^|_)(id|key|uid)$", name):
                return "id"
            return "id" if form == "uuid" else form
    if _share(texts, lambda text: text.lower() in _ROLES) >= ENOUGH:
        return "role"
    if _share(texts, _is_language) >= ENOUGH and (re.search(r"lang|locale", name) or len({*texts}) > 1):
        return "language"
    if re.search(r"(^|_)(id|key|uid|uuid|guid)$", name) and _share(texts, lambda text: len(text) <= 64) >= ENOUGH:
        return "id"
    if _share(texts, _is_code) >= 0.6:
        return "code"
    if _share(texts, _is_prose) >= 0.5:
        return "prose"
    if distinct <= 0.05 and len(texts) >= 20 and _share(texts, lambda text: len(text) <= 64) >= ENOUGH:
        return "category"
    return None


def _of_numbers(name: str, values: Sequence[Any], distinct: float) -> str | None:
    numbers = [value for value in values if isinstance(value, int | float)]
    if re.search(r"(^|_)(id|key|uid)$", name):
        return "id"
    if re.search(r"time|date|created|updated|(_|^)(at|ts)$", name) and _share(numbers, _is_epoch) >= ENOUGH:
        return "timestamp"
    if (
        re.search(r"^(lat|latitude|lon|lng|long|longitude)$", name)
        and _share(numbers, lambda n: abs(n) <= 180) >= ENOUGH
    ):
        return "coordinate"
    if re.search(r"label|class|category|rating|stars", name) and distinct <= 0.05:
        return "category"
    return "score" if re.search(r"score|prob|confidence|similarity", name) else None


def _of_list(name: str, values: Sequence[Any]) -> str | None:
    lists = [value for value in values if isinstance(value, list) and value]
    if lists and all(isinstance(item, int | float) for value in lists for item in value[:8]):
        sizes = {len(value) for value in lists}
        if len(sizes) == 1 and min(sizes) >= 16:
            return "embedding"
    if (
        lists
        and all(isinstance(value[0], dict) for value in lists)
        and name in ("messages", "conversations", "conversation")
    ):
        return "conversation"
    return None


def _share(values: Sequence[Any], fits: Callable[[Any], Any]) -> float:
    return sum(1 for value in values if fits(value)) / len(values) if values else 0.0


def _is_epoch(number: float) -> bool:
    return any(3e8 <= number / unit <= 5e9 for unit in (1, 1e3, 1e6, 1e9))


def _is_language(text: str) -> bool:
    return _LANGUAGES.fullmatch(re.split("[-_]", text.lower(), maxsplit=1)[0]) is not None and len(text) <= 10


def _is_code(text: str) -> bool:
    lines = [line for line in text.splitlines()[:40] if line.strip()]
    hits = sum(1 for line in lines if _CODE_LINE.search(line))
    return len(text) >= 8 and hits >= max(1, 0.4 * len(lines)) and (len(lines) > 1 or text.count(" ") < 40)


def _is_prose(text: str) -> bool:
    """Whether it is words: several of them, or, where words are not spaced, many characters."""
    if len(text) >= 20 and sum(1 for char in text[:400] if ord(char) > 0x2E7F) > 0.3 * len(text[:400]):
        return True
    words = re.findall(r"[^\W\d_]{2,}", text[:2000])
    return len(words) >= 4 and sum(map(len, words)) > 0.5 * len(text[:2000].strip())

"""Checksums and number plans: each takes what a pattern matched and says whether it can be real.

A check is named in a rule. Sources: ISO/IEC 7812 (Luhn, issuer numbers), ISO 13616 (IBAN), the Social Security
Administration's rules for areas, ITU-T E.164, and the issuing offices' descriptions of their numbers.
"""

from __future__ import annotations

import importlib
import ipaddress
import math
import re
from collections import Counter
from collections.abc import Callable

from tusd_py_pii import national_ids
from tusd_py_pii.errors import RuleError
from tusd_py_pii.national_ids import digits, luhn

Check = Callable[[bytes], bool]

_PLACEHOLDER = re.compile(
    rb"(?i)example|placeholder|your|changeme|xxxx|\*\*\*|\$\{|<|process|environ|config|token|passw|secret|get_|\."
)
_EXTENSION = re.compile(rb"[xe#]", re.IGNORECASE)
_DATE = re.compile(rb"\d\d[ \-/]\d\d[ \-/](?:19|20)\d\d")
_IN_PAIRS = re.compile(rb"0\d{1,2}-\d{2,3} \d\d \d\d")
_IBAN_LENGTHS = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BI": 27, "BR": 29,
    "BY": 28, "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DJ": 27, "DK": 18, "DO": 28, "EE": 20, "EG": 29,
    "ES": 24, "FI": 18, "FK": 18, "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28,
    "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20, "LB": 28,
    "LC": 32, "LI": 21, "LT": 20, "LU": 20, "LV": 21, "LY": 25, "MC": 27, "MD": 24, "ME": 22, "MK": 19, "MN": 20,
    "MR": 27, "MT": 31, "MU": 30, "NI": 28, "NL": 18, "NO": 15, "OM": 23, "PK": 24, "PL": 28, "PS": 29, "PT": 25,
    "QA": 29, "RO": 24, "RS": 22, "RU": 33, "SA": 24, "SC": 31, "SD": 18, "SE": 24, "SI": 19, "SK": 24, "SM": 27,
    "SO": 23, "ST": 25, "SV": 28, "TL": 23, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24, "XK": 20, "YE": 30,
}  # fmt: skip
# What stands behind an @ and a dot in file names and code.
_NO_TOP_LEVEL = frozenset(
    {
        "avi", "bmp", "cfg", "conf", "css", "csv", "dll", "doc", "docx", "exe", "gif", "gz", "htm", "html", "ico",
        "ini", "internal", "invalid", "jar", "java", "jpeg", "jpg", "js", "json", "jsx", "lan", "local",
        "localdomain", "localhost", "lock", "log", "md", "mp", "pdf", "php", "png", "rb", "rst", "scss", "sql", "svg",
        "tar", "tmp", "toml", "ts", "tsx", "txt", "vue", "wav", "webp", "whl", "xls", "xlsx", "xml", "yaml", "yml",
    }
)  # fmt: skip
# Country code: least and most digits of a national number (E.164 and national plans); others get 6 to 12.
_PHONE_LENGTHS = {
    "1": (10, 10), "7": (10, 10), "20": (8, 10), "27": (9, 9), "30": (10, 10), "31": (9, 9), "32": (8, 9),
    "33": (9, 9), "34": (9, 9), "36": (8, 9), "39": (6, 11), "40": (9, 9), "41": (9, 9), "43": (4, 13), "44": (9, 10),
    "45": (8, 8), "46": (7, 9), "47": (8, 8), "48": (9, 9), "49": (6, 11), "51": (8, 9), "52": (10, 11),
    "54": (10, 11), "55": (10, 11), "56": (9, 9), "57": (8, 10), "60": (8, 10), "61": (9, 9), "62": (7, 12),
    "63": (8, 10), "64": (8, 10), "65": (8, 8), "66": (8, 9), "81": (9, 10), "82": (8, 10), "84": (9, 10),
    "86": (10, 11), "90": (10, 10), "91": (10, 10),
}  # fmt: skip


def card(value: bytes) -> bool:
    """Whether it is a payment card's number: an issuer's prefix, that issuer's length, and Luhn."""
    number = digits(value.removesuffix(b".0"))  # so a column of numbers is written if some are missing
    size, two, three, four = len(number), int(number[:2]), int(number[:3]), int(number[:4])
    if number[0] == 52:
        known = size in (13, 16, 19)
    elif 51 <= two <= 55 or 2221 <= four <= 2720:
        known = size == 16
    elif two in (34, 37):
        known = size == 15
    elif two in (36, 38, 39) or 300 <= three <= 305:
        known = size == 14 or (size == 16 and two != 36)
    elif (
        four == 6011
        or two == 65
        or 644 <= three <= 649
        or 3528 <= four <= 3589
        or two in (50, 62)
        or 56 <= two <= 58
        or four in (6304, 6759, 6761, 6762, 6763)
    ):
        known = size in (16, 19)
    else:
        known = False
    return known and luhn(number)


def two_cards(value: bytes) -> bool:
    """Whether the first and the second sixteen digits are payment cards' numbers."""
    number = digits(value)
    return card(number[:16]) and card(number[16:])


def iban(value: bytes) -> bool:
    """Whether length and remainder (mod 97) of an IBAN are right."""
    text = value.replace(b" ", b"").replace(b"-", b"").decode("ascii", "replace").upper()
    if _IBAN_LENGTHS.get(text[:2]) != len(text) or not text.isalnum():
        return False
    return int("".join(str(int(char, 36)) for char in text[4:] + text[:4])) % 97 == 1


def email(value: bytes) -> bool:
    """Whether the domain can be one, and neither side has two dots in a row."""
    local, _, domain = value.lower().rpartition(b"@")
    top = domain.rpartition(b".")[2].decode("ascii", "replace")
    return b".." not in value and not local.endswith(b".") and top not in _NO_TOP_LEVEL and local != b"git"


def us_ssn(value: bytes) -> bool:
    """Whether area, group and serial are such as the Social Security Administration gives out."""
    number = digits(value)
    area, group, serial = int(number[:3]), int(number[3:5]), int(number[5:])
    return 0 < area < 900 and area != 666 and group > 0 and serial > 0 and number not in (b"078051120", b"123456789")


def nanp(value: bytes) -> bool:
    """Whether it is a number of the North American plan: area and exchange begin with 2 to 9, neither is N11."""
    number = digits(_EXTENSION.split(value, 1)[0])
    number = number[-10:] if len(number) in (11, 13) else number
    return (
        len(number) == 10
        and number[0] > 49
        and number[3] > 49
        and number[1:3] != b"11"
        and number[4:6] != b"11"
        and len(set(number)) > 2
    )


def e164(value: bytes) -> bool:
    """Whether it has a country code, and as many digits as that country's plan has."""
    number = digits(_EXTENSION.split(value, 1)[0].replace(b"(0)", b""))
    number = number[2:] if value.startswith(b"00") else number
    text = number.decode()
    if not text or text[0] == "0" or len(set(text)) < 3:
        return False
    if text[0] == "1":
        return nanp(number[1:])
    for size in (1, 2):
        if text[:size] in _PHONE_LENGTHS:
            least, most = _PHONE_LENGTHS[text[:size]]
            # People write the trunk zero too.
            left = len(text) - size
            return least <= left <= most or (text[size : size + 1] == "0" and least <= left - 1 <= most)
    return 8 <= len(text) <= 15


def national_phone(value: bytes) -> bool:
    """Whether a number without country code has 7 to 11 digits and is not one digit again and again."""
    number = digits(_EXTENSION.split(value, 1)[0])
    return 7 <= len(number) <= 11 and len(set(number)) > 2


def trunk_zero_phone(value: bytes) -> bool:
    """Whether a number with a leading zero has 9 to 11 digits, or 8 in pairs, and does not begin with a date."""
    number = digits(value)
    is_date = _DATE.match(value)
    in_pairs = _IN_PAIRS.fullmatch(value)
    return (9 <= len(number) <= 11 or in_pairs is not None) and len(set(number)) > 2 and not is_date


def bare_phone(value: bytes) -> bool:
    """Whether digits alone look drawn at random, as those of phone numbers do, and are no ISBN, PESEL or CPF."""
    if len(value) == 10:
        weighted = sum(place * (byte - 48) for byte, place in zip(value, range(10, 0, -1), strict=True))
        return len(set(value)) > 4 and weighted % 11 != 0
    return len(set(value)) > 4 and not national_ids.pl_pesel(value) and not national_ids.br_cpf(value)


def br_phone(value: bytes) -> bool:
    """Whether the parts of a Brazilian number are no range of years."""
    first, last = value[-9:-5], value[-4:]
    return not (first[:2] in (b"19", b"20") and last[:2] in (b"19", b"20")) and len(set(value)) > 4


def public_ip(value: bytes) -> bool:
    """Whether it is an address of the public internet."""
    if b"." not in value and b"::" not in value and value.count(b":") != 7:
        return False  # a time of day, or the address of a network card
    try:
        address = ipaddress.ip_address(value.decode("ascii"))
    except ValueError:
        return False
    return address.is_global and not address.is_multicast and address.packed[-1:] != b"\0"


def entropy(value: bytes) -> float:
    """Return the bits of information per byte, by how often each byte occurs."""
    size = len(value)
    return -sum(count / size * math.log2(count / size) for count in Counter(value).values())


def random_token(value: bytes) -> bool:
    """Whether what follows the prefix looks drawn at random, and not like words or xxxx."""
    body = re.split(rb"[_.\-:]", value)[-1]
    return entropy(body if len(body) >= 12 else value) > 2.8


def token_with_digit(value: bytes) -> bool:
    """Whether it looks drawn at random, from an alphabet with digits: no name with dashes does."""
    return any(48 <= byte <= 57 for byte in value) and random_token(value)


def assigned_secret(value: bytes) -> bool:
    """Whether the value that is assigned looks drawn at random: no placeholder, no name, no path."""
    secret = re.split(rb"[:=]\s*", value, maxsplit=1)[-1].strip(b"\"' ")
    is_mixed = any(48 <= byte <= 57 for byte in secret) or (secret != secret.lower() and secret != secret.upper())
    has_letter = any(chr(byte).isalpha() for byte in secret)
    return is_mixed and has_letter and not _PLACEHOLDER.search(secret) and entropy(secret) > 3.0


def mixed_secret(value: bytes) -> bool:
    """The same, for a key without a prefix; a hash in hexadecimal is none."""
    return bool(value.translate(None, b"0123456789abcdefABCDEF")) and assigned_secret(value)


def named(name: str) -> Check:
    """Return the check that a rule names: one of this module, or `module:function`.

    Raises:
        RuleError: there is none.
    """
    module, colon, attribute = name.partition(":")
    try:
        check = getattr(importlib.import_module(module), attribute) if colon else BUILT_IN[name]
    except (KeyError, ImportError, AttributeError):
        raise RuleError(f"there is no check {name!r}") from None
    if not callable(check):
        raise RuleError(f"the check {name!r} is not a function")
    result: Check = check
    return result


BUILT_IN: dict[str, Check] = {
    check.__name__: check
    for check in (
        luhn, card, two_cards, iban, email, us_ssn, nanp, e164, national_phone, trunk_zero_phone, bare_phone, br_phone,
        public_ip, random_token, token_with_digit, assigned_secret, mixed_secret, *national_ids.ALL,
    )
}  # fmt: skip

"""Check digits and number plans of national ids."""

from __future__ import annotations

from collections import Counter
from datetime import date

_NOT_DIGIT = bytes(byte for byte in range(256) if not 48 <= byte <= 57)
# The sum of the digits that a doubled digit has, as a digit.
_DOUBLE = bytes.maketrans(b"0123456789", b"0246813579")
_VERHOEFF_D = [
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], [1, 2, 3, 4, 0, 6, 7, 8, 9, 5], [2, 3, 4, 0, 1, 7, 8, 9, 5, 6],
    [3, 4, 0, 1, 2, 8, 9, 5, 6, 7], [4, 0, 1, 2, 3, 9, 5, 6, 7, 8], [5, 9, 8, 7, 6, 0, 4, 3, 2, 1],
    [6, 5, 9, 8, 7, 1, 0, 4, 3, 2], [7, 6, 5, 9, 8, 2, 1, 0, 4, 3], [8, 7, 6, 5, 9, 3, 2, 1, 0, 4],
    [9, 8, 7, 6, 5, 4, 3, 2, 1, 0],
]  # fmt: skip
_VERHOEFF_P = [
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], [1, 5, 7, 6, 2, 8, 3, 0, 9, 4], [5, 8, 0, 3, 7, 9, 6, 1, 4, 2],
    [8, 9, 1, 6, 0, 4, 3, 5, 2, 7], [9, 4, 5, 3, 1, 2, 6, 8, 7, 0], [4, 2, 8, 6, 5, 7, 3, 9, 0, 1],
    [2, 7, 9, 3, 8, 0, 6, 4, 1, 5], [7, 0, 4, 6, 9, 1, 3, 2, 5, 8],
]  # fmt: skip


def digits(value: bytes) -> bytes:
    """Return the digits of a value."""
    return value.translate(None, _NOT_DIGIT)


def _numbers(value: bytes) -> list[int]:
    return [byte - 48 for byte in digits(value)]


def _weighted(numbers: list[int], weights: list[int]) -> int:
    return sum(number * weight for number, weight in zip(numbers, weights, strict=False))


def _is_date(year: int, month: int, day: int) -> bool:
    try:
        date(year, month, day)
    except ValueError:
        return False
    return True


def luhn(value: bytes) -> bool:
    """Whether the digits pass the Luhn test and are not all the same."""
    number = digits(value)
    total = sum(number[-1::-2]) + sum(number[-2::-2].translate(_DOUBLE)) - 48 * len(number)
    return total % 10 == 0 and len(set(number)) > 1


def uk_nino(value: bytes) -> bool:
    """Whether the prefix of a National Insurance number is one that is given out."""
    prefix = value[:2].decode().upper()
    return prefix not in ("BG", "GB", "KN", "NK", "NT", "TN", "ZZ")


def uk_nhs(value: bytes) -> bool:
    """Whether the last of ten digits is right (mod 11)."""
    numbers = _numbers(value)
    return len(set(numbers)) > 2 and (11 - _weighted(numbers, [10, 9, 8, 7, 6, 5, 4, 3, 2]) % 11) % 11 == numbers[9]


def es_dni(value: bytes) -> bool:
    """Whether the letter of a Spanish DNI or NIE is right."""
    text = value.replace(b"-", b"").decode().upper()
    body = {"X": "0", "Y": "1", "Z": "2"}.get(text[0], text[0]) + text[1:-1]
    return "TRWAGMYFPDXBNJZSQVHLCKE"[int(body) % 23] == text[-1]


def fr_nir(value: bytes) -> bool:
    """Whether the key of a French social security number is right (mod 97)."""
    text = value.replace(b" ", b"").decode().upper().replace("2A", "19").replace("2B", "18")
    return 97 - int(text[:13]) % 97 == int(text[13:])


def de_tax_id(value: bytes) -> bool:
    """Whether the check digit of a German tax id is right (ISO 7064, mod 11, 10), and one digit repeats."""
    numbers = _numbers(value)
    if numbers[0] == 0 or max(Counter(numbers[:10]).values()) not in (2, 3):
        return False
    product = 10
    for number in numbers[:10]:
        total = (number + product) % 10 or 10
        product = total * 2 % 11
    return (11 - product) % 10 == numbers[10]


def it_codice_fiscale(value: bytes) -> bool:
    """Whether the last letter of a codice fiscale is right."""
    odd = [1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23]
    text = value.decode().upper()
    codes = [int(char) if char.isdigit() else ord(char) - 65 for char in text[:15]]
    total = sum(odd[code] if place % 2 == 0 else code for place, code in enumerate(codes))
    return chr(65 + total % 26) == text[15]


def pl_pesel(value: bytes) -> bool:
    """Whether date and check digit of a PESEL are right."""
    numbers = _numbers(value)
    month = (numbers[2] * 10 + numbers[3]) % 20
    day = numbers[4] * 10 + numbers[5]
    total = _weighted(numbers, [1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1])
    return 1 <= month <= 12 and 1 <= day <= 31 and total % 10 == 0


def nl_bsn(value: bytes) -> bool:
    """Whether a burgerservicenummer passes the test of eleven."""
    numbers = _numbers(value)
    return len(set(numbers)) > 2 and _weighted(numbers, [9, 8, 7, 6, 5, 4, 3, 2, -1]) % 11 == 0


def se_personnummer(value: bytes) -> bool:
    """Whether date and check digit of a personnummer are right."""
    numbers = _numbers(value)[-10:]
    month, day = numbers[2] * 10 + numbers[3], (numbers[4] * 10 + numbers[5]) % 60
    return 1 <= month <= 12 and 1 <= day <= 31 and luhn(bytes(48 + number for number in numbers))


def fi_hetu(value: bytes) -> bool:
    """Whether the last character of a henkilötunnus is right (mod 31)."""
    text = value.decode().upper()
    number = text[:6] + text[7:10]
    return 1 <= int(text[2:4]) <= 12 and "0123456789ABCDEFHJKLMNPRSTUVWXY"[int(number) % 31] == text[10]


def br_cpf(value: bytes) -> bool:
    """Whether both check digits of a CPF are right."""
    numbers = _numbers(value)
    first = _weighted(numbers[:9], [10, 9, 8, 7, 6, 5, 4, 3, 2]) * 10 % 11 % 10
    second = _weighted(numbers[:10], [11, 10, 9, 8, 7, 6, 5, 4, 3, 2]) * 10 % 11 % 10
    return len(set(numbers)) > 1 and numbers[9:] == [first, second]


def in_aadhaar(value: bytes) -> bool:
    """Whether an Aadhaar number passes the Verhoeff test."""
    total = 0
    for place, number in enumerate(reversed(_numbers(value))):
        total = _VERHOEFF_D[total][_VERHOEFF_P[place % 8][number]]
    return total == 0 and len(set(value)) > 4


def ca_sin(value: bytes) -> bool:
    """Whether a social insurance number passes Luhn and has a first digit that is given out."""
    return value[0] not in (48, 56) and luhn(value)


def cn_resident_id(value: bytes) -> bool:
    """Whether date and check character of a Chinese resident id are right (ISO 7064, mod 11-2)."""
    text = value.decode().upper()
    if not _is_date(int(text[6:10]), int(text[10:12]), int(text[12:14])):
        return False
    total = sum(int(char) * pow(2, 17 - place, 11) for place, char in enumerate(text[:17]))
    return "10X98765432"[total % 11] == text[17]


def kr_rrn(value: bytes) -> bool:
    """Whether the date of a Korean resident number can be, and its seventh digit."""
    numbers = _numbers(value)
    month, day = numbers[2] * 10 + numbers[3], numbers[4] * 10 + numbers[5]
    return 1 <= month <= 12 and 1 <= day <= 31 and 1 <= numbers[6] <= 8


ALL = (
    uk_nino, uk_nhs, es_dni, fr_nir, de_tax_id, it_codice_fiscale, pl_pesel, nl_bsn, se_personnummer, fi_hetu, br_cpf,
    in_aadhaar, ca_sin, cn_resident_id, kr_rrn,
)  # fmt: skip

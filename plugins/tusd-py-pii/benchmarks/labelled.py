"""A labelled set: sentences with values of known types, and hard negatives that only look like values.

Values come from Faker in many locales and from generators of our own; the same seed makes the same set.
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
import string
import uuid
from collections.abc import Callable, Iterator
from typing import NamedTuple

from faker import Faker
from tusd_py_pii.national_ids import in_aadhaar

LOCALES = ("en_US", "en_GB", "en_CA", "de_DE", "fr_FR", "es_ES", "it_IT", "nl_NL", "pl_PL", "pt_BR", "sv_SE", "fi_FI",
           "en_IN", "zh_CN", "ja_JP", "ko_KR")  # fmt: skip
# What Faker's `ssn` is in each locale, where we have a rule for it, and how people call it.
IDS = {
    "en_US": ("ssn", "SSN"), "en_GB": ("national_id", "NI number"), "en_CA": ("national_id", "SIN"),
    "es_ES": ("national_id", "DNI"), "fr_FR": ("national_id", "NIR"), "it_IT": ("national_id", "codice fiscale"),
    "nl_NL": ("national_id", "BSN"), "pl_PL": ("national_id", "PESEL"), "pt_BR": ("national_id", "CPF"),
    "sv_SE": ("national_id", "personnummer"), "fi_FI": ("national_id", "hetu"), "zh_CN": ("national_id", "身份证"),
    "en_IN": ("national_id", "Aadhaar"), "ko_KR": ("national_id", "RRN"),
}  # fmt: skip
PLAIN = ("{}", "Please use {} from now on.", "It was {} all along, she said.", "we have ({}) on file", "{}\nThanks!",
         "Das ist {} und gilt weiter.", "dato: {}, confermato", "see \"{}\"; and then some more words follow here",
         "资料{}已经收到")  # fmt: skip
CONTEXT = {
    "phone": ("Call {} today.", "Phone: {}", "my mobile is {} if needed", "Tel. {}", "Telefon {}"),
    "card": ("card {}", "Pay with {} please", "visa: {}"),
    "email": ("Mail {} for help.", "email={}"),
    "iban": ("IBAN {}", "transfer to {} by Friday"),
    "ip": ("logged in from {}", "client={}"),
    "address": ("She lives at {} now.", "Address: {}"),
    "credential": ("export KEY={}", "token: {}", 'headers = {{"Authorization": "Bearer {}"}}'),
}


class Example(NamedTuple):
    """A text, the values in it as `(start, stop, type)`, and the set that it belongs to."""

    text: str
    labels: tuple[tuple[int, int, str], ...]
    group: str


def examples(count: int, seed: int = 7) -> Iterator[Example]:
    """Yield so many examples, two fifths of them hard negatives."""
    chance = random.Random(seed)
    fakers = {}
    for locale in LOCALES:
        fakers[locale] = Faker(locale)
        fakers[locale].seed_instance(seed)
    values = _values(fakers, chance)
    negatives = _negatives(chance)
    for _ in range(count):
        if chance.random() < 0.4:
            name, make = chance.choice(negatives)
            before, after = chance.choice(PLAIN).split("{}")
            yield Example(before + make() + after, (), f"negative {name}")
            continue
        kind, group, make = chance.choice(values)
        value = make()
        has_context = kind in CONTEXT and chance.random() < 0.5
        carrier = chance.choice(CONTEXT[kind] if has_context else PLAIN)
        if kind in ("ssn", "national_id") and chance.random() < 0.7:
            locale = group.partition(" ")[2]
            carrier = IDS[locale][1] + " {}"
        before, after = carrier.replace("{{", "{").replace("}}", "}").split("{}")
        if chance.random() < 0.04 and value.isascii() and kind in ("phone", "card", "email", "iban", "ssn"):
            value, group = _disguised(value, chance), f"{kind} in Unicode"
        yield Example(before + value + after, ((len(before), len(before) + len(value), kind),), group)


def _values(fakers: dict[str, Faker], chance: random.Random) -> list[tuple[str, str, Callable[[], str]]]:
    result: list[tuple[str, str, Callable[[], str]]] = []
    for locale, fake in fakers.items():
        result += [("email", "email", fake.email), ("phone", f"phone {locale}", fake.phone_number)]
        if locale in IDS:
            # Faker's ids of these three have no valid check digit or prefix.
            make = fake.nif if locale == "es_ES" else fake.ssn
            if locale in ("en_GB", "en_IN"):
                make = {"en_GB": lambda: _nino(chance), "en_IN": lambda: _aadhaar(chance)}[locale]
            result.append((IDS[locale][0], f"{IDS[locale][0]} {locale}", make))
        if locale in ("en_US", "en_GB", "en_CA", "de_DE", "fr_FR", "it_IT", "es_ES"):
            result.append(("address", f"address {locale}", fake.street_address))
    us = fakers["en_US"]
    for locale in ("en_GB", "de_DE", "fr_FR", "es_ES", "it_IT", "nl_NL", "pl_PL"):
        result.append(("iban", "iban", fakers[locale].iban))
        result.append(("iban", "iban spaced", lambda fake=fakers[locale]: _groups(fake.iban(), " ")))
    for brand in ("visa16", "mastercard", "amex", "discover"):
        result.append(("card", "card", lambda brand=brand: us.credit_card_number(brand)))
        result.append(
            (
                "card",
                "card grouped",
                lambda brand=brand: _card_groups(us.credit_card_number(brand), chance.choice(" -")),
            )
        )
    result += [("ip", "ipv4", us.ipv4_public)] * 4
    result += [("ip", "ipv6", lambda: "2a00:{:x}:{:x}::{:x}".format(*chance.choices(range(1, 0xFFFF), k=3)))] * 3
    result += [("credential", f"credential {name}", make) for name, make in credentials(chance)]
    return result


def _nino(chance: random.Random) -> str:
    digits = [f"{chance.randrange(100):02}" for _ in range(3)]
    return chance.choice(("AB", "CE", "JK", "PW")) + chance.choice(("", " ")).join(["", *digits, chance.choice("ABCD")])


def _aadhaar(chance: random.Random) -> str:
    while True:
        number = str(chance.randrange(2 * 10**11, 10**12))
        if in_aadhaar(number.encode()):
            return chance.choice((number, _groups(number, " ")))


def _groups(text: str, separator: str) -> str:
    return separator.join(text[start : start + 4] for start in range(0, len(text), 4))


def _card_groups(text: str, separator: str) -> str:
    return _groups(text, separator) if len(text) == 16 else separator.join((text[:4], text[4:10], text[10:]))


def _disguised(value: str, chance: random.Random) -> str:
    """Return the value as an editor, a messenger or an input method may have made it."""
    return chance.choice(
        (
            lambda: "".join(chr(ord(char) + 0xFEE0) if char.isdigit() else char for char in value),
            lambda: value.replace("-", "\u2011").replace(" ", "\u00a0"),
            lambda: value[:3] + "\u200b" + value[3:],
            lambda: value[: len(value) // 2] + "\u00ad" + value[len(value) // 2 :],
        )
    )()


def credentials(chance: random.Random) -> list[tuple[str, Callable[[], str]]]:
    """Return generators of made-up keys and tokens."""
    word = string.ascii_letters + string.digits

    def some(size: int, alphabet: str = word) -> str:
        return "".join(chance.choice(alphabet) for _ in range(size))

    def jwt() -> str:
        parts = ({"alg": "HS256", "typ": "JWT"}, {"sub": some(10), "iat": chance.randrange(10**9)})
        encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
        return ".".join([*encoded, some(43, word + "-_")])

    def private_key() -> str:
        lines = "\n".join(some(64, word + "+/") for _ in range(12))
        return f"-----BEGIN RSA PRIVATE KEY-----\n{lines}\n-----END RSA PRIVATE KEY-----"

    return [
        ("aws", lambda: "AKIA" + some(16, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")),
        ("github", lambda: "ghp_" + some(36)),
        ("gitlab", lambda: "glpat-" + some(20)),
        ("slack", lambda: f"xoxb-{some(12, string.digits)}-{some(24)}"),
        ("stripe", lambda: "sk_live_" + some(24)),
        ("google", lambda: "AIza" + some(35)),
        ("openai", lambda: "sk-proj-" + some(48)),
        ("anthropic", lambda: "sk-ant-api03-" + some(93, word + "-_") + "AA"),
        ("huggingface", lambda: "hf_" + some(34)),
        ("npm", lambda: "npm_" + some(36)),
        ("jwt", jwt),
        ("private key", private_key),
        ("url", lambda: f"postgres://admin:{some(12)}@db.example.com:5432/app"),
        ("password", lambda: f"password={some(14)}"),
    ]


def _negatives(chance: random.Random) -> list[tuple[str, Callable[[], str]]]:
    number = chance.randrange

    def hexes(size: int) -> str:
        return f"{chance.getrandbits(4 * size):0{size}x}"

    def isbn() -> str:
        return f"978-{number(10)}-{number(100, 999)}-{number(10000, 99999)}-{number(10)}"

    def isbn10() -> str:
        body = [chance.randrange(10) for _ in range(9)]
        last = -sum(digit * weight for digit, weight in zip(body, range(10, 1, -1), strict=True)) % 11
        return "".join(map(str, body)) + ("X" if last == 10 else str(last))

    return [
        ("float", lambda: f"{chance.random():.16f}"),
        ("float", lambda: f"{chance.uniform(-180, 180):.7f}, {chance.uniform(-90, 90):.7f}"),
        ("id of 16 digits", lambda: f"id {number(10**15, 10**16)}"),
        ("id of 16 digits", lambda: f"order_id={number(4 * 10**15, 6 * 10**15)}"),
        ("id of 16 digits", lambda: f'"tweet_id": {number(10**17, 10**18)}'),
        ("16 digits alone", lambda: str(number(10**15, 10**16))),
        ("9 digits alone", lambda: str(number(10**8, 10**9))),
        ("tracking number", lambda: f"1Z{number(10**6, 10**7)}{number(10**8, 10**9)}"),
        ("zip code", lambda: f"{number(10000, 99999)}-{number(1000, 9999)}"),
        ("timestamp", lambda: str(number(1_500_000_000_000, 1_800_000_000_000))),
        (
            "timestamp",
            lambda: f"{number(1990, 2030)}-{number(1, 13):02}-{number(1, 29):02}T{number(24):02}:{number(60):02}:00Z",
        ),
        ("timestamp", lambda: f"{number(2000, 2030)}{number(1, 13):02}{number(1, 29):02}{number(10**6):06}"),
        ("hash", lambda: hashlib.md5(str(number(10**9)).encode(), usedforsecurity=False).hexdigest()),
        ("hash", lambda: hashlib.sha256(str(number(10**9)).encode()).hexdigest()),
        ("hash", lambda: base64.b64encode(chance.randbytes(30)).decode()),
        ("uuid", lambda: str(uuid.UUID(int=chance.getrandbits(128), version=4))),
        ("version", lambda: f"version {number(30)}.{number(30)}.{number(30)}.{number(3000)}"),
        ("version", lambda: f"v{number(30)}.{number(30)}.{number(30)}-rc{number(9)}"),
        ("version", lambda: f"Chrome/{number(90, 130)}.0.{number(1000, 6000)}.{number(200)}"),
        ("version", lambda: f"foo@{number(9)}.{number(9)}.{number(9)}"),
        (
            "code",
            lambda: chance.choice(
                (
                    "@pytest.fixture",
                    "@app.route",
                    "git@github.com:org/repo.git",
                    "logo@2x.png",
                    "@types/node",
                    "std::vector::iterator",
                    "a[1:2:3]",
                    "x = y @ w.T",
                    "print(f'{a}@{b}')",
                    "user@localhost",
                )
            ),
        ),
        ("code", lambda: f"password = os.environ['PW_{number(100)}']"),
        (
            "code",
            lambda: chance.choice(
                (
                    "api_key = YOUR_API_KEY_HERE",
                    "password: ${DB_PASSWORD1}",
                    "token = get_token(user_1)",
                    "secret=xxxxxxxx1",
                    "sk-learn-contrib-is-a-package-name",
                )
            ),
        ),
        ("private address", lambda: f"10.{number(256)}.{number(256)}.{number(1, 255)}"),
        ("private address", lambda: f"192.168.{number(256)}.{number(1, 255)}"),
        (
            "private address",
            lambda: chance.choice(("127.0.0.1", "0.0.0.0", "255.255.255.0", "::1", "fe80::1", "169.254.169.254")),
        ),
        ("mac and time", lambda: ":".join(hexes(2) for _ in range(6))),
        ("mac and time", lambda: f"{number(24):02}:{number(60):02}:{number(60):02}"),
        ("isbn", isbn),
        ("isbn", isbn10),
        ("number with zeros", lambda: f"id {number(10**10):010}"),
        ("number with zeros", lambda: f"{number(10**7):010}"),
        ("number with zeros", lambda: f"{number(10**12):012}"),
        ("11 digits alone", lambda: str(number(10**10, 10**11))),
        ("numbers", lambda: f"vol. {number(11, 99)} {number(1000, 1500)}-{number(1500, 2000)}"),
        ("numbers", lambda: f"{number(100, 999)} {number(100, 999)} {number(100, 999)} bytes"),
        ("sku", lambda: f"SKU {number(100, 999)}-{number(10, 99)}-{number(1000, 9999)}"),
        ("sku", lambda: f"{chance.choice('ABCDEF')}{number(100, 999)}-{number(10, 99)}-{number(1000, 9999)}"),
        ("numbers", lambda: f"{number(10, 99)},{number(100, 999)},{number(100, 999)}.{number(10, 99)} USD"),
        ("numbers", lambda: f"pages {number(100, 200)}-{number(200, 400)}, {number(1990, 2000)}-{number(2000, 2024)}"),
        ("numbers", lambda: " ".join(str(number(1000)) for _ in range(8))),
        ("numbers", lambda: f"{number(10**8, 10**9)} rows in {number(10**9, 10**10)} ms"),
        (
            "prose",
            lambda: chance.choice(
                (
                    "Chapter 12 The Long Road home",
                    "In 2024 The Park was closed",
                    "Top 10 New Ideas",
                    "Section 3 Way forward",
                    "Rev. 2 Drive test",
                    "He won 3 Grand Slams",
                    "rule 5: weg 3 damit",
                    "Figure 4 Ridge regression",
                    "Canale 5 trasmette",
                    "Via libera a 12 Stati",
                    "Corso di 3 Settimane",
                    "la Ronda 2 de 4",
                    "Unit 5 of 7",
                    "Suite 12 passed",
                    "Strada facendo, 4 amici",
                )
            ),
        ),
        (
            "escape",
            lambda: chance.choice((r"\u0040media screen", r"C:\new\table.csv", r"\x41\x42@", "a%40b", "&#64;import")),
        ),
        ("unicode", lambda: chance.choice(("①②③④⑤⑥⑦⑧⑨⑩", "٢٠٢٤", "½ cup", "x²+y³", "١٢:٣٠", "２０２４年５月"))),
    ]

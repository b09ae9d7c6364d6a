"""Where the values of settings come from: flags, `TUSD_PY_*` variables and a TOML file, in this order of precedence.

All three are made from the one class `Config`. The name of a field is the name of its TOML key; with dashes it is the
flag, in capitals behind `TUSD_PY_` the variable.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from tusd_py.config import Config, ConfigError, Size, redacted
from tusd_py.units import format_duration, format_exact_size, parse_duration, parse_size

# What people write besides true, false, 1 and 0.
_SWITCH = {"yes": True, "on": True, "no": False, "off": False}


class Field(msgspec.Struct, frozen=True):
    """One setting as flags, documents and `tusd-py config` show it."""

    name: str
    help: str
    group: str
    secret: bool
    default: Any
    type: Any

    @property
    def flag(self) -> str:
        """Command-line flag."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """Environment variable."""
        return "TUSD_PY_" + self.name.upper()

    @property
    def is_list(self) -> bool:
        """Whether the flag may be repeated; the variable then has commas."""
        return get_origin(self.type) is list

    @property
    def is_table(self) -> bool:
        """Whether only the TOML file can set it."""
        return get_origin(self.type) is dict

    @property
    def metavar(self) -> str:
        """What kind of value the flag takes."""
        kinds = {Size: "SIZE", timedelta: "TIME", int: "N"}
        return next((name for kind, name in kinds.items() if kind in (self.type, *get_args(self.type))), "TEXT")

    @property
    def choices(self) -> tuple[str, ...]:
        """Allowed values, if they are few."""
        inner = get_args(self.type)[0] if self.is_list else self.type
        return get_args(inner) if get_origin(inner) is Literal else ()


def fields() -> list[Field]:
    """Return every setting in the order of the class."""
    defaults = Config()
    result = []
    for name, hint in get_type_hints(Config, include_extras=True).items():
        if get_origin(hint) is not Annotated:
            continue
        kind, meta = get_args(hint)
        result.append(
            Field(
                name=name,
                help=meta.description,
                group=meta.extra["group"],
                secret=meta.extra["secret"],
                default=getattr(defaults, name),
                type=kind,
            )
        )
    return result


def show(value: Any) -> str:
    """Return a setting's value as it would be written."""
    if isinstance(value, timedelta):
        return format_duration(value)
    if isinstance(value, Size):
        return format_exact_size(value)
    if isinstance(value, list):
        return ",".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else redacted(str(value))


def _convert(value: Any, kind: Any) -> Any:
    if kind is bool and isinstance(value, str):
        value = _SWITCH.get(value.lower(), value)
    # msgspec has a form of its own for durations, and so never asks the hook for those.
    return msgspec.convert(parse_duration(value) if kind is timedelta else value, kind, strict=False, dec_hook=_size)


def _size(kind: type, value: object) -> object:
    if kind is Size:
        return Size(parse_size(value))
    raise NotImplementedError(kind)


class Sources(msgspec.Struct, frozen=True):
    """Settings as they were given, before they are joined."""

    config: Config
    origin: dict[str, str]
    """Where each setting that is not a default came from."""


def load(
    flags: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    file: str | Path | None = None,
) -> Sources:
    """Join flags, environment and TOML file.

    Raises:
        ConfigError: a setting is unknown or wrong, naming it and where it was given.
    """
    environment = os.environ if environment is None else environment
    file = file or environment.get("TUSD_PY_CONFIG")
    known = {field.name: field for field in fields()}
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}

    def take(name: str, value: Any, source: str) -> None:
        try:
            values[name] = _convert(value, known[name].type)
        except ValueError as error:  # msgspec's ValidationError is one too
            raise ConfigError(f"{source}: {name}: {error}") from error
        origin[name] = source

    if file:
        for name, value in _read_toml(Path(file)).items():
            if name not in known:
                raise ConfigError(f"{file}: unknown setting {name!r}; `tusd-py config` lists all settings")
            take(name, value, str(file))
    for setting in known.values():
        if setting.is_table or (text := environment.get(setting.variable)) is None:
            continue
        take(
            setting.name,
            [part.strip() for part in text.split(",") if part.strip()] if setting.is_list else text,
            setting.variable,
        )
    for name, value in (flags or {}).items():
        if value is not None:
            take(name, value, known[name].flag)
    try:
        return Sources(Config(**values), origin)
    except ConfigError as error:
        raise ConfigError(f"settings: {error}") from error


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error

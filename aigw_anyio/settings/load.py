"""Reading the settings: TOML file and environment, every problem at once, never a value in an error."""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from aigw_anyio.names import shown, shown_path
from aigw_anyio.settings.checks import cross_problems, cross_warnings
from aigw_anyio.settings.fields import PROVIDER_NAME
from aigw_anyio.settings.model import Settings
from aigw_core.providers import PROVIDERS

ENV_PREFIX: Final = "AI_"
CONFIG_VARIABLE: Final = "AI_CONFIG"
SEED_VARIABLE: Final = "AI_SIGNING_SEED"
"""Read by ``aigw key mint`` only."""
_POOL_KEY_PREFIX: Final = "AI_POOL_KEY_"
_FILE_SUFFIX: Final = "_FILE"

FILE_BYTES_MAX: Final = 1024 * 1024
"""Of a configuration or key file; a wrong path (a device, a log) must not be read whole."""

_PER_PROVIDER: Final = frozenset({"on_client_abort", "idle_timeout_secs"})
_JSON_FIELDS: Final = frozenset(
    name for name, info in Settings.model_fields.items() if get_origin(info.annotation) in (dict, list)
)


class SettingsError(Exception):
    """The configuration is refused. ``problems`` holds one line each; no line repeats a value."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(slots=True)
class _Raw:
    """What was found, by name, before validation."""

    values: dict[str, object]
    variables: dict[tuple[str, ...], str] = field(default_factory=dict)
    """Which environment variable a name, or a name's member, came from."""
    broken: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def label(self, *path: str) -> str:
        for length in range(len(path), 0, -1):
            variable = self.variables.get(path[:length])
            if variable is not None:
                return f"{'.'.join(path)} ({variable})"
        return ".".join(path)


def load_settings(*, config: Path | None, environ: Mapping[str, str]) -> tuple[Settings, list[str]]:
    """The validated settings and one line for each warning.

    The file is ``config``, or else the one that ``AI_CONFIG`` names; the environment wins over the file,
    whole values at a time. An empty variable counts as unset. Files that the
    settings name are opened here, so that a second call re-reads pool keys and certificates.

    Raises SettingsError.
    """
    raw = _Raw({})
    if config is None and environ.get(CONFIG_VARIABLE):
        config = Path(environ[CONFIG_VARIABLE])
    if config is not None:
        _read_file(config, raw)
    _read_environment(environ, raw)
    settings = _validated(raw)
    raw.problems += cross_problems(settings, raw.broken, raw.label)
    if raw.problems:
        raise SettingsError(raw.problems)
    return settings, raw.warnings + cross_warnings(settings, environ)


def nearest(name: str, known: Iterable[str]) -> str:
    """``; did you mean …?`` where a known name is close, else nothing."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def _read_file(path: Path, raw: _Raw) -> None:
    label = f"configuration file {shown_path(path)}"
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
        if len(content) > FILE_BYTES_MAX:
            raw.problems.append(f"{label}: is larger than {FILE_BYTES_MAX} bytes")
            return
        table = tomllib.loads(content.decode())
    except OSError as error:
        raw.problems.append(f"{label}: cannot be read: {error.strerror}")
    except tomllib.TOMLDecodeError as error:
        place = re.search(r"at line \d+, column \d+", str(error))
        raw.problems.append(f"{label}: is not valid TOML {place[0] if place else 'at its end'}")
    except (ValueError, RecursionError):
        raw.problems.append(f"{label}: is not UTF-8 text, or too deeply nested")
    else:
        for name, value in table.items():
            if name in Settings.model_fields:
                raw.values[name] = value
            else:
                raw.problems.append(f"{shown(name)}: unknown name{nearest(name, Settings.model_fields)}")


def _read_environment(environ: Mapping[str, str], raw: _Raw) -> None:
    by_variable = {ENV_PREFIX + name.upper(): name for name in Settings.model_fields}
    pool_keys: dict[str, str] = {}
    for variable, text in sorted(environ.items()):
        if not variable.startswith(ENV_PREFIX) or not text.strip():
            continue
        if variable in by_variable:
            name = by_variable[variable]
            raw.variables[(name,)] = variable
            raw.values[name] = _environment_value(name, text, raw)
        elif variable.startswith(_POOL_KEY_PREFIX):
            pool_keys[variable] = text
        elif variable not in (CONFIG_VARIABLE, SEED_VARIABLE):
            raw.warnings.append(f"{shown(variable)}: unknown variable{nearest(variable, by_variable)}")
    _read_pool_keys(pool_keys, raw)


def _environment_value(name: str, text: str, raw: _Raw) -> object:
    if name not in _JSON_FIELDS or (name in _PER_PROVIDER and not text.lstrip().startswith("{")):
        return text.strip()
    try:
        value: object = json.loads(text, object_pairs_hook=_unique_members)
    except (ValueError, RecursionError) as error:
        what = str(error) if isinstance(error, _RepeatedMember) else "is not valid JSON"
        raw.problems.append(f"{raw.label(name)}: {what}; allowed: {_allowed(name)}, as JSON")
        raw.broken.add(name)
        return None
    return value


class _RepeatedMember(ValueError):
    pass


def _unique_members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _RepeatedMember("names a member twice")
    return members


def _read_pool_keys(variables: Mapping[str, str], raw: _Raw) -> None:
    """``AI_POOL_KEY_<PROVIDER>`` and ``…_FILE``, each over the table's entry of that provider."""
    authorities = raw.values.get("provider_authorities")
    added = [str(name) for name in authorities] if isinstance(authorities, Mapping) else []
    by_variable = {
        _POOL_KEY_PREFIX + name.upper().replace("-", "_"): name
        for name in (*PROVIDERS, *added)
        if PROVIDER_NAME.fullmatch(name)
    }
    table = raw.values.get("pool_keys", {})
    keys: dict[str, object] = dict(table) if isinstance(table, Mapping) else {}
    found = False
    for variable, text in variables.items():
        provider = by_variable.get(variable)
        is_file = provider is None and variable.endswith(_FILE_SUFFIX)
        if is_file:
            provider = by_variable.get(variable.removesuffix(_FILE_SUFFIX))
        if provider is None:
            raw.warnings.append(f"{shown(variable)}: no such provider{nearest(variable, by_variable)}")
            continue
        label = f"pool_keys.{shown(provider)} ({shown(variable)})"
        if is_file and variable.removesuffix(_FILE_SUFFIX) in variables:
            raw.problems.append(f"{label}: the key is given twice; set one variable")
            continue
        key = _key_of_file(text.strip(), label, raw) if is_file else text
        if key is not None:
            found = True
            keys[provider] = key
            raw.variables[("pool_keys", provider)] = variable
    if found and isinstance(table, Mapping) and "pool_keys" not in raw.broken:
        raw.values["pool_keys"] = keys


def _key_of_file(path: str, label: str, raw: _Raw) -> str | None:
    try:
        with open(path, "rb") as file:
            return file.read(FILE_BYTES_MAX).decode()
    except OSError as error:
        what = f"the file cannot be read: {error.strerror or os.strerror(error.errno or 0)}"
    except ValueError:
        what = "the file is not text"
    raw.problems.append(f"{label}: {what}; allowed: the path of a file that holds the key")
    return None


def _validated(raw: _Raw) -> Settings:
    """The settings without what is refused: a member of a table, else the whole value; its name is in ``broken``."""
    values = {name: value for name, value in raw.values.items() if name not in raw.broken}
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        # Dropping the context keeps the values that pydantic holds out of any traceback.
        details = error.errors(include_url=False, include_input=False)
    for detail in details:
        raw.problems.append(_line(detail, raw))
        name = str(detail["loc"][0])
        raw.broken.add(name)
        table, whole = values.get(name), raw.values[name]
        # A name that is no text, such as a lone surrogate, is spelt in another way here than in the table.
        is_named = isinstance(whole, Mapping) and detail["loc"][1:2] and detail["loc"][1] in whole
        if isinstance(table, Mapping) and is_named:
            values[name] = {key: value for key, value in table.items() if key != detail["loc"][1]}
        else:
            values.pop(name, None)
    return Settings.model_validate(values)


def _line(detail: ErrorDetails, raw: _Raw) -> str:
    name = str(detail["loc"][0])
    path = [name]
    place = ""
    for part in detail["loc"][1:]:
        if isinstance(part, int):
            place = f" entry {part + 1}"
        elif part != "[key]" and not (name in _PER_PROVIDER and part == "default"):
            path.append(shown(part))
    return f"{raw.label(*path)}:{place} {_what(detail)}; allowed: {_allowed(name)}"


def _allowed(name: str) -> str:
    return Settings.model_fields[name].description or "see the reference"


_WHATS: Final = {
    "enum": "is none of the allowed values",
    "int_parsing": "is not a whole number",
    "int_parsing_size": "is too large",
    "int_type": "is not a whole number",
    "int_from_float": "is not a whole number",
    "float_parsing": "is not a number",
    "float_type": "is not a number",
    "bool_parsing": "is neither true nor false",
    "bool_type": "is neither true nor false",
    "greater_than": "is too small",
    "greater_than_equal": "is too small",
    "less_than_equal": "is too large",
    "dict_type": "is not a table",
    "list_type": "is not a list",
    "too_short": "is empty",
}


def _what(detail: ErrorDetails) -> str:
    if detail["type"] == "value_error":
        # Our own validators raise these, and none of them quotes its input.
        return str(detail["ctx"]["error"])
    return _WHATS.get(detail["type"], "is not valid")

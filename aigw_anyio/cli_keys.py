"""``aigw key new|mint|inspect``: signing seeds and virtual keys, offline."""

from __future__ import annotations

import argparse
import base64
import binascii
import getpass
import os
import re
import sys
from pathlib import Path
from typing import Final

from aigw_anyio.settings.load import SEED_VARIABLE
from aigw_core.keys import (
    SEED_SIZE,
    KeyRing,
    VirtualKey,
    VirtualKeyError,
    fingerprint,
    mint_virtual_key,
    parse_virtual_key,
    public_key_of,
)
from aigw_core.secrets import Secret

INPUT_MAX: Final = 4096
"""Bytes read of a seed or key; a wrong file must not be read whole."""

_DIGITS: Final = re.compile(r"0|[1-9][0-9]{0,19}")


def add_parsers(key: argparse.ArgumentParser) -> None:
    """Adds the three subcommands."""
    commands = key.add_subparsers(dest="key_command", required=True, metavar="COMMAND")
    new = commands.add_parser("new", help="make a signing seed and its public key")
    new.add_argument("--kid", type=_u32, default=1, help="the number that names the key (default: 1)")
    mint = commands.add_parser(
        "mint",
        help="make a virtual key",
        description=f"The seed is read from --seed-file, else from {SEED_VARIABLE}, else from standard input.",
    )
    mint.add_argument("--kid", type=_u32, default=1, help="the number of the signing key (default: 1)")
    mint.add_argument("--tenant", type=_u64, required=True, help="tenant id")
    mint.add_argument("--vpc", type=_u64, default=0, help="vpc id (default: 0)")
    mint.add_argument("--key-id", type=_u64, help="key id, which makes the key one that can be cut off by itself")
    mint.add_argument("--seed-file", type=Path, metavar="FILE")
    inspect = commands.add_parser(
        "inspect",
        help="say what a virtual key states",
        description="The virtual key is read from standard input unless it is given.",
    )
    inspect.add_argument("key", nargs="?", metavar="KEY")
    inspect.add_argument("--public-key", metavar="BASE64", help="check the signature as well")


def run(arguments: argparse.Namespace) -> int:
    """0 where the command succeeded and, for ``inspect``, the key holds; 1 otherwise."""
    try:
        if arguments.key_command == "new":
            return _new(arguments.kid)
        if arguments.key_command == "mint":
            return _mint(arguments)
        return _inspect(arguments)
    except ValueError as error:
        # The texts of the core and of this module say what is wrong and never repeat a key.
        print(f"aigw key: {error}", file=sys.stderr)
        return 1


def _new(kid: int) -> int:
    seed = Secret(os.urandom(SEED_SIZE))
    public = _base64(public_key_of(seed))
    print(f"kid = {kid}")
    print(f'seed = "{_base64(seed.reveal())}"')
    print(f'public_key = "{public}"')
    print("Keep the seed secret: it makes virtual keys. The gateway needs only:", file=sys.stderr)
    print(f'AI_SIGNING_KEYS=\'{{"{kid}": "{public}"}}\'', file=sys.stderr)
    return 0


def _mint(arguments: argparse.Namespace) -> int:
    seed = _read_seed(arguments.seed_file)
    token = mint_virtual_key(
        seed,
        kid=arguments.kid,
        tenant_id=arguments.tenant,
        vpc_id=arguments.vpc,
        key_id=arguments.key_id,
    )
    print(token)
    return 0


def _inspect(arguments: argparse.Namespace) -> int:
    text = arguments.key if arguments.key not in (None, "-") else _read_stdin("virtual key: ")
    token = text.strip().encode("utf-8", "replace")
    try:
        parsed = parse_virtual_key(token)
        _describe(parsed.claimed)
        if arguments.public_key is None:
            print("signature   not checked: no --public-key given")
            return 0
        ring = KeyRing({parsed.claimed.kid: arguments.public_key})
        # The fingerprint only names the key in the ring's cache, which ends with this call.
        ring.verify(parsed, fingerprint(token, os.urandom(32)))
    except VirtualKeyError as error:
        print(f"signature   refused: {error.fault.value.replace('_', ' ')}")
        return 1
    print("signature   good")
    return 0


def _describe(key: VirtualKey) -> None:
    print(f"version     {key.version}")
    print(f"kid         {key.kid}")
    print(f"tenant_id   {key.tenant_id}")
    print(f"vpc_id      {key.vpc_id}")
    print(f"key_id      {'none' if key.key_id is None else key.key_id}")


def _read_seed(file: Path | None) -> Secret:
    """The seed as 32 raw bytes, 64 hex digits or base64 of either alphabet. Raises ValueError."""
    if file is not None:
        try:
            with file.open("rb") as stream:
                content = stream.read(INPUT_MAX)
        except OSError as error:
            raise ValueError(f"the seed file cannot be read: {error.strerror}") from None
    elif os.environ.get(SEED_VARIABLE):
        content = os.environ[SEED_VARIABLE].encode("utf-8", "replace")
    else:
        content = _read_stdin("signing seed: ").encode("utf-8", "replace")
    return Secret(_decode_seed(content))


def _decode_seed(content: bytes) -> bytes:
    if len(content) == SEED_SIZE:
        return content
    text = content.strip()
    try:
        if re.fullmatch(rb"[0-9a-fA-F]{64}", text):
            return binascii.unhexlify(text)
        if re.fullmatch(rb"[A-Za-z0-9+/_-]{43}=?", text):
            standard = text.rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
            return base64.b64decode(standard + b"=", validate=True)
    except ValueError:
        # The message below says all there is to say, and this one might quote the seed.
        pass
    raise ValueError("a seed is 32 raw bytes, 64 hex digits, or 43 or 44 characters of base64")


def _read_stdin(prompt: str) -> str:
    if sys.stdin.isatty():
        return getpass.getpass(prompt)
    return sys.stdin.read(INPUT_MAX)


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")


def _u32(text: str) -> int:
    return _number(text, 2**32 - 1)


def _u64(text: str) -> int:
    return _number(text, 2**64 - 1)


def _number(text: str, largest: int) -> int:
    if _DIGITS.fullmatch(text) is None or int(text) > largest:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to {largest}")
    return int(text)

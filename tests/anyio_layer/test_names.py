from __future__ import annotations

import base64
import random
import string

import pytest

from aigw_anyio.names import NAME_SHOWN_MAX, NOT_SHOWN, looks_secret, shown, shown_path
from aigw_anyio.settings import Settings
from aigw_core.providers import PROVIDERS

NAMES = [
    *Settings.model_fields,
    *(f"AI_{name.upper()}" for name in Settings.model_fields),
    *(f"AI_POOL_KEY_{name.upper()}_FILE" for name in PROVIDERS),
    *PROVIDERS,
    "AI_LISTEN_ADR",
    "AI_UPSTREAM_CONNECT_TIMEOUT_SECONDS_MAX",
    "maxRequestBytes",
    "listenAddr",
    "my-provider_2",
    "gpt4",
    "azure.eu2",
    "blackhole.18446744073709551615",
    "blackhole.key.42x",
    "disk_size",
    "tasks",
]
KEYS = [
    "AI_SK_ANT_API03_ABCDEFG",
    "AI_sk-ant-api03-x",
    "AI_bai_v2.1.x",
    "AI_BAI_V2",
    "AI_POOL_KEY_sk-proj-x",
    "AI_POOL_KEY_OPENAI_SK_PROJ_X",
    "AI_GSK_x",
    "AI_AIzaSyD",
    "eyJhbGci",
    "AKIAIOSFODNN7",
    "xai-Ab3dE5fG7hJ9",
    "0123456789abcdef0123456789abcdef",
    "AI_0123456789ABCDEF",
    "AI_deadbeefcafe1234",
    "qwertzuiopasdfghjklyxcv",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_shown(name: str) -> None:
    assert shown(name) == name


@pytest.mark.parametrize("key", KEYS)
def test_a_key_is_not(key: str) -> None:
    assert shown(key) == NOT_SHOWN


@pytest.mark.parametrize("seed", range(200))
def test_nothing_random_is_shown(seed: int) -> None:
    """Sixteen bytes at least, in the alphabets of keys, behind any name."""
    dice = random.Random(seed)
    data = dice.randbytes(dice.randint(16, 24))
    letters = "".join(dice.choices(string.ascii_letters + string.digits, k=24))
    hexadecimal, mixed = data.hex(), base64.urlsafe_b64encode(data).decode().rstrip("=")
    for key in (hexadecimal, hexadecimal.upper(), letters, letters.upper(), mixed):
        for name in (key, f"AI_{key}", f"AI_POOL_KEY_{key}", f"AI_OPENAI_{key}_FILE"):
            assert looks_secret(name), name


@pytest.mark.parametrize("name", ["", "a b", "a\n", "\x1b[2J", "ä", "a" * 3 + "_a" * NAME_SHOWN_MAX])
def test_what_no_name_has_is_not_shown(name: str) -> None:
    assert shown(name) == NOT_SHOWN


def test_paths() -> None:
    assert shown_path("/etc/aigw/0123456789abcdef/aigw.toml") == "/etc/aigw/0123456789abcdef/aigw.toml"
    assert shown_path("/etc/sk-ant-api03-x") == "(a path that is not shown)"

"""Addresses and credentials of NATS are taken apart, checked, and never quoted."""

from __future__ import annotations

from pathlib import Path

import pytest

from aigw_anyio.nats.options import parse_nats_url
from aigw_core.secrets import Secret


def test_a_plain_address() -> None:
    options = parse_nats_url(Secret("nats://nats.internal"))
    assert options.servers == ("nats://nats.internal:4222",)
    assert (options.tls_required, options.user, options.password, options.token) == (False, None, None, None)


def test_several_addresses_with_one_login() -> None:
    options = parse_nats_url(Secret("tls://u:p%40w@a:1, nats://u:p%40w@[::1]:2,c"))
    assert options.servers == ("tls://a:1", "tls://[::1]:2", "tls://c:4222")
    assert options.tls_required
    assert options.user == Secret("u")
    assert options.password == Secret("p@w")
    assert "p@w" not in repr(options)


def test_a_token() -> None:
    assert parse_nats_url(Secret("nats://t%2Fk@a")).token == Secret("t/k")


@pytest.mark.parametrize(
    "url",
    [
        "",
        ",",
        "http://a",
        "nats://",
        "nats://a:0",
        "nats://a:99999",
        "nats://a:x",
        "nats://[s3cret]",
        "nats://a/path",
        "nats://a?q",
        "nats://s3cret@a,nats://oth3r@b",
        ",".join(["nats://a"] * 33),
    ],
)
def test_bad_addresses_are_refused_without_quoting_them(url: str) -> None:
    with pytest.raises(ValueError, match="address") as caught:
        parse_nats_url(Secret(url))
    assert not any(word in str(caught.value) for word in ("s3cret", "oth3r"))


def test_files_must_be_readable(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="credentials file cannot be read"):
        parse_nats_url(Secret("a"), creds_file=tmp_path / "none")
    with pytest.raises(ValueError, match="certificates cannot be read"):
        parse_nats_url(Secret("a"), ca_file=tmp_path / "none")
    (tmp_path / "empty.pem").write_text("")
    with pytest.raises(ValueError, match="cannot be loaded"):
        parse_nats_url(Secret("a"), ca_file=tmp_path / "empty.pem")


def test_credentials_are_given_once(tmp_path: Path) -> None:
    (tmp_path / "creds").write_text("")
    with pytest.raises(ValueError, match="twice"):
        parse_nats_url(Secret("nats://t@a"), creds_file=tmp_path / "creds")

"""What an operator gets wrong at the start: one line for each mistake, and an exit code that tells whose it is."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
import trustme

from aigw_anyio.limits import FILES_MIN
from tests.e2e import keys
from tests.e2e.client import Client, request
from tests.e2e.conftest import Starter
from tests.e2e.gateway import Gateway

REFUSED, FAILED = 2, 1
_UNCLOSED: Final = re.compile(
    r"^Exception ignored while finalizing socket .*?^ResourceWarning: unclosed [^\n]*\n", re.S | re.M
)


def lines_of(gateway: Gateway, code: int) -> list[str]:
    """What it says before it ends with this code; nothing of it is a log line or a traceback."""
    assert gateway.wait() == code, gateway.stderr
    assert gateway.stdout == []
    assert [line for line in gateway.stderr if not line.startswith("aigw: ")] == []
    return gateway.stderr


# Settings: exit code 2


def toml(text: str) -> Callable[[Path], dict[str, str]]:
    def make(folder: Path) -> dict[str, str]:
        (folder / "aigw.toml").write_text(text)
        return {"AI_CONFIG": str(folder / "aigw.toml")}

    return make


def certificate(folder: Path, *, key_of_another: bool = False) -> dict[str, str]:
    issued, other = (trustme.CA().issue_cert("localhost") for _ in range(2))
    issued.cert_chain_pems[0].write_to_path(folder / "chain.pem")
    (other if key_of_another else issued).private_key_pem.write_to_path(folder / "key.pem")
    return {"AI_TLS_CERT_FILE": str(folder / "chain.pem"), "AI_TLS_KEY_FILE": str(folder / "key.pem")}


def _directory(variable: str) -> Callable[[Path], dict[str, str]]:
    return lambda folder: {variable: str(folder)}


def _nowhere(variable: str) -> Callable[[Path], dict[str, str]]:
    return lambda folder: {variable: str(folder / "nowhere")}


MISTAKES: Final[dict[str, tuple[Callable[[Path], dict[str, str]], str]]] = {
    "broken TOML": (toml("rate_limit_rps = = 5\n"), "is not valid TOML at line 1, column 18"),
    "no text": (lambda folder: toml("")(folder) | {"AI_CONFIG": sys.executable}, "configuration file "),
    "an unknown name": (toml("rate_limit_rsp = 5\n"), "rate_limit_rsp: unknown name; did you mean rate_limit_rps?"),
    "a name twice": (toml("workers = 1\nworkers = 1\n"), "is not valid TOML at line 2"),
    "a table for a value": (toml("[rate_limit_rps]\na = 1\n"), "rate_limit_rps: is not a whole number"),
    "no such file": (_nowhere("AI_CONFIG"), "nowhere: cannot be read: No such file or directory"),
    "a directory": (_directory("AI_CONFIG"), "cannot be read: Is a directory"),
    "no pool key file": (_nowhere("AI_POOL_KEY_XAI_FILE"), "pool_keys.xai (AI_POOL_KEY_XAI_FILE): the file cannot be"),
    "a pool key that is a directory": (_directory("AI_POOL_KEY_XAI_FILE"), "the file cannot be read: Is a directory"),
    "an unknown provider": (toml('[pool_keys]\nopenay = "k"\n'), "pool_keys.openay: unknown provider; did you mean"),
    "a signing key that is none": (lambda _: {"AI_SIGNING_KEYS": '{"1": "k"}'}, "signing_keys.1 (AI_SIGNING_KEYS): "),
    "no certificate": (
        lambda f: certificate(f) | _nowhere("AI_TLS_CERT_FILE")(f),
        "the certificate cannot be read: No",
    ),
    "no key": (lambda f: certificate(f) | _nowhere("AI_TLS_KEY_FILE")(f), "the key cannot be read: No such file"),
    "the key of another": (lambda f: certificate(f, key_of_another=True), "certificate and key cannot be loaded: KEY_"),
    "no authorities": (_nowhere("AI_UPSTREAM_CA_FILE"), "upstream_ca_file (AI_UPSTREAM_CA_FILE): the file cannot be"),
    "one address for both": (
        lambda _: {"AI_LISTEN_ADDR": "127.0.0.1:9", "AI_METRICS_LISTEN": "127.0.0.1:9"},
        "metrics_listen (AI_METRICS_LISTEN): is the same address as listen_addr; allowed: another port",
    ),
    "one port for both": (
        lambda _: {"AI_LISTEN_ADDR": "127.0.0.1:9", "AI_METRICS_LISTEN": "0.0.0.0:9"},
        "metrics_listen (AI_METRICS_LISTEN): has the port of listen_addr",
    ),
    "no port": (lambda _: {"AI_LISTEN_ADDR": "localhost"}, "listen_addr (AI_LISTEN_ADDR): has no port; allowed: "),
    "no directory for the snapshot": (
        lambda f: {"AI_DENY_SOURCE": "file", "AI_DENY_FILE": "x", "AI_SNAPSHOT_PATH": str(f / "nowhere" / "deny")},
        "snapshot_path (AI_SNAPSHOT_PATH): its directory does not exist",
    ),
    "no spool": (lambda _: {"AI_FACT_SINK": "spool"}, "spool_dir: is unset, but fact_sink is spool"),
    "no NATS": (lambda _: {"AI_DENY_SOURCE": "nats"}, "nats_url: is not set, but deny_source is nats"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_settings_is_one_line(start: Starter, tmp_path: Path, mistake: str) -> None:
    make, told = MISTAKES[mistake]
    environ = make(tmp_path)
    if "AI_POOL_KEY_XAI_FILE" in environ:
        environ["AI_POOL_KEY_XAI"] = ""
    (line,) = lines_of(start(environ, listens=False), REFUSED)
    assert told in line


def _unreadable() -> list[str]:
    """A command under which file modes hold, also for root."""
    if os.geteuid() != 0:
        return []
    tool = shutil.which("setpriv")
    if tool is None:
        pytest.skip("root reads everything, and there is no setpriv to change that")
    return [tool, "--inh-caps=-all", "--bounding-set=-all", "--"]


@pytest.mark.parametrize("variable", ["AI_CONFIG", "AI_POOL_KEY_XAI_FILE", "AI_TLS_KEY_FILE", "AI_UPSTREAM_CA_FILE"])
def test_a_file_that_must_not_be_read_is_one_line(backend: str, tmp_path: Path, variable: str) -> None:
    environ = certificate(tmp_path) if variable == "AI_TLS_KEY_FILE" else {variable: str(tmp_path / "file")}
    Path(environ[variable]).touch()
    Path(environ[variable]).chmod(0)
    (line,) = lines_of(Gateway(backend, environ, wrapper=_unreadable(), listens=False), REFUSED)
    assert "cannot be read: Permission denied" in line


# The machine: exit code 1


def test_an_address_that_is_not_ours(start: Starter) -> None:
    for name in ("AI_LISTEN_ADDR", "AI_METRICS_LISTEN"):
        # 192.0.2.0/24 is for documentation (RFC 5737).
        (line,) = lines_of(start({name: "192.0.2.1:8080"}, listens=False), FAILED)
        setting = name.removeprefix("AI_").lower()
        assert line == f"aigw: {setting}: cannot listen on 192.0.2.1:8080: Cannot assign requested address"


def test_a_port_in_use_is_one_line(start: Starter) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for name in ("AI_LISTEN_ADDR", "AI_METRICS_LISTEN"):
            (line,) = lines_of(start({name: address}, listens=False), FAILED)
            setting = name.removeprefix("AI_").lower()
            assert line == f"aigw: {setting}: cannot listen on {address}: Address already in use"


def test_a_spool_that_is_a_file(start: Starter, tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("x")
    environ = {"AI_FACT_SINK": "spool", "AI_SPOOL_DIR": str(tmp_path / "spool")}
    (line,) = lines_of(start(environ, listens=False), FAILED)
    assert line.startswith("aigw: spool_dir: ")


# File descriptors


def limited(files: int, taken: int = 0) -> list[str]:
    """A command that leaves so many descriptors to what follows, ``taken`` of them in use already."""
    program = (
        "import os, resource, sys;"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({files}, {files}));"
        f"[os.set_inheritable(os.open(os.devnull, os.O_RDONLY), True) for _ in range({taken})];"
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    return [sys.executable, "-c", program]


@pytest.mark.parametrize("files", [12, 20, FILES_MIN - 1])
def test_too_few_file_descriptors(backend: str, files: int) -> None:
    gateway = Gateway(backend, {}, wrapper=limited(files), listens=False)
    assert lines_of(gateway, FAILED) == [
        f"aigw: a limit of {files} open files is too low; allowed: {FILES_MIN} or more (ulimit -n)"
    ]


def test_the_fewest_file_descriptors_that_do(backend: str) -> None:
    gateway = Gateway(backend, {}, wrapper=limited(FILES_MIN))
    with Client(gateway) as client:
        client.send(request("/openai/v1/models"))
        assert client.read_answer().status == 401
    assert gateway.stop() == 0
    assert gateway.faults() == []


@pytest.mark.parametrize("left", [5, 6, 7, 8, 10])
def test_no_file_descriptors_left(backend: str, left: int) -> None:
    """Somebody has handed down nearly all of them: it serves, or says in one line why it does not.

    With fewer than five, Python itself cannot load its modules.
    """
    files = 100
    gateway = Gateway(backend, {}, wrapper=limited(files, files - 3 - left), listens=False)
    try:
        gateway.wait_log(r"^listening |file|Errno 24|Too many open")
        if any(line.startswith("listening ") for line in gateway.stderr):
            assert gateway.stop() == 0
            return
    except AssertionError:
        gateway.stop()
        raise
    gateway.wait()
    # trio leaves the sockets of a loop that it could not make, which "-W error" tells of on Python 3.14.
    told = re.sub(_UNCLOSED, "", "\n".join([*gateway.stderr, ""]))
    gateway.stderr[:] = told.splitlines()
    (line,) = lines_of(gateway, FAILED)
    assert line in (
        f"aigw: no file descriptors are left: the limit is {files} (ulimit -n)",
        "aigw: metrics_listen: cannot listen on 127.0.0.1:0: Too many open files",
        "aigw: listen_addr: cannot listen on 127.0.0.1:0: Too many open files",
    )


def test_no_file_descriptors_left_for_callers(backend: str) -> None:
    """More callers than it can accept: said once a second, and over when they have gone."""
    gateway = Gateway(backend, {"AI_MAX_CONNECTIONS": "1000"}, wrapper=limited(FILES_MIN + 4))
    callers = [socket.create_connection(gateway.address) for _ in range(FILES_MIN + 40)]
    gateway.wait_log("no connection can be accepted")
    for caller in callers:
        caller.close()
    with Client(gateway) as client:
        client.send(request("/openai/v1/models", b"", (b"Authorization", b"Bearer " + keys.forged_key().encode())))
        assert client.read_answer().status == 401
    gateway.send_signal(signal.SIGTERM)
    assert gateway.wait() == 0
    told = [line for line in gateway.stderr if '"level": "error"' in line]
    assert [line for line in told if "no connection can be accepted" not in line] == []
    assert len(told) < 20
    assert not any("Traceback" in line for line in gateway.stderr)

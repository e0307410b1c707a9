"""The ``aigw`` command, and the command line that every frontend shares."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import logging
import os
import re
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import NoReturn

import anyio

from aigw_anyio import cli_deny, cli_doctor, cli_facts, cli_keys, logs
from aigw_anyio.dataplane import DataPlaneFactory
from aigw_anyio.lifecycle import EXIT_CONFIGURATION, EXIT_FAILED, Options, run_gateway
from aigw_anyio.limits import FILES_MIN, open_files_limit, out_of_files, raise_open_files_limit
from aigw_anyio.notify import Notifier
from aigw_anyio.settings import SettingsError, load_settings
from aigw_anyio.version import VERSION

BACKENDS = ("asyncio", "trio")

_log = logging.getLogger("aigw.cli")


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors do not repeat what was typed: it may be a key."""

    def __init__(self, **options: object) -> None:
        super().__init__(**{"allow_abbrev": False, **options})  # type: ignore[arg-type]  # passed through as given

    def error(self, message: str) -> NoReturn:
        for pattern, text in _ECHOES:
            message = pattern.sub(text, message)
        self.print_usage(sys.stderr)
        self.exit(EXIT_CONFIGURATION, f"{self.prog}: {message}\n")


_ECHOES = (
    (re.compile(r"unrecognized arguments: .*", re.DOTALL), "unknown arguments"),
    (re.compile(r"invalid choice: .* \(choose from", re.DOTALL), "unknown (choose from"),
    (re.compile(r"invalid (\w+) value: .*", re.DOTALL), r"not a valid \1 value"),
    (re.compile(r"ignored explicit argument .*", re.DOTALL), "takes no value"),
    (re.compile(r"ambiguous option: .*", re.DOTALL), "ambiguous option"),
)


def main(argv: list[str] | None = None) -> int:
    """The ``aigw`` command; returns the exit code."""
    parser = Parser(prog="aigw", description="LLM egress gateway.")
    parser.add_argument("--version", action="version", version=f"aigw {VERSION}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="run the gateway")
    serve.add_argument("--config", metavar="FILE", help="TOML file (default: AI_CONFIG, else none)")
    demo = commands.add_parser("demo", help="run the gateway against a built-in mock provider")
    for command in (serve, demo):
        command.add_argument("--backend", choices=BACKENDS, default=BACKENDS[0], help="default: %(default)s")
    cli_keys.add_parsers(commands.add_parser("key", help="make and read virtual keys"))
    cli_facts.add_parsers(commands.add_parser("facts", help="read and check a spool of usage facts"))
    cli_deny.add_parsers(commands.add_parser("deny", help="cut tenants and keys off, and restore them"))
    cli_doctor.add_arguments(
        commands.add_parser("doctor", help="check configuration, providers, NATS, disk, clock and limits")
    )
    arguments = parser.parse_args(argv)
    if arguments.command == "doctor":
        return cli_doctor.run(arguments)
    if arguments.command == "facts":
        return cli_facts.run(arguments)
    if arguments.command == "key":
        return cli_keys.run(arguments)
    if arguments.command == "deny":
        return cli_deny.run(arguments)
    if arguments.command == "demo":
        return _run_frontend(arguments.backend, ["--demo"])
    return _run_frontend(arguments.backend, ["--config", arguments.config] if arguments.config else [])


def _run_frontend(backend: str, argv: list[str]) -> int:
    # Frontends stand above this layer and are named only at run time.
    try:
        frontend = importlib.import_module(f"aigw_{backend}")
    except ModuleNotFoundError as error:
        logs.say(f"aigw: the {backend} frontend needs the module {error.name}: pip install 'aigw[{backend}]'")
        return EXIT_FAILED
    entry: Callable[[list[str]], int] | None = getattr(frontend, "main", None)
    if entry is None:
        logs.say(f"aigw: the {backend} frontend is not available yet")
        return EXIT_FAILED
    return entry(argv)


def frontend_main(
    factory: DataPlaneFactory,
    backend: str,
    argv: list[str] | None = None,
    *,
    make_clock: Callable[[], object] | None = None,
) -> int:
    """``python -m aigw_<backend> [--config FILE] [--demo]``; returns the exit code.

    0 after a clean stop, 2 for a configuration that is refused (one line a problem), 1 otherwise. ``make_clock``:
    for an event loop whose own clock is not :func:`time.monotonic`, by which workers count together.
    """
    parser = Parser(prog=f"aigw_{backend}", description=f"The gateway on {backend}.")
    parser.add_argument("--config", metavar="FILE", type=Path, help="TOML file (default: AI_CONFIG, else none)")
    parser.add_argument("--demo", action="store_true", help="serve a built-in mock provider; needs nothing else")
    parser.add_argument("--version", action="version", version=f"aigw {VERSION}")
    parser.set_defaults(uvloop=False)
    if backend == "asyncio":
        parser.add_argument("--uvloop", action="store_true", help="run on uvloop (pip install 'aigw[fast]')")
    arguments = parser.parse_args(argv)
    if arguments.uvloop and importlib.util.find_spec("uvloop") is None:
        logs.say("aigw: --uvloop needs the module uvloop: pip install 'aigw[fast]'")
        return EXIT_FAILED
    if backend == "trio" and importlib.util.find_spec("trio") is None:
        logs.say("aigw: the trio frontend needs the module trio: pip install 'aigw[trio]'")
        return EXIT_FAILED
    if not _has_standard_streams():
        logs.say("aigw: standard output is closed, so usage facts have nowhere to go")
        return EXIT_FAILED
    raise_open_files_limit()
    files = open_files_limit()
    if files < FILES_MIN:
        logs.say(f"aigw: a limit of {files} open files is too low; allowed: {FILES_MIN} or more (ulimit -n)")
        return EXIT_FAILED
    load = partial(load_settings, config=arguments.config, environ=os.environ)
    try:
        settings, warnings = load()
    except SettingsError as error:
        for problem in error.problems:
            logs.say(f"aigw: {logs.escaped(problem)}")
        return EXIT_CONFIGURATION
    logs.configure(settings.log_format, settings.log_level)
    for warning in warnings:
        _log.warning("%s", warning)
    options = Options(backend, reload=load, owns_process=True, notifier=Notifier.from_environ(os.environ))
    backend_options: dict[str, object] = {"use_uvloop": True} if arguments.uvloop else {}
    if make_clock is not None:
        backend_options["clock"] = make_clock()
    in_loop = partial(_run_in_loop, backend, backend_options)
    if arguments.demo:
        # Only the demo needs the mock provider's answers.
        from aigw_anyio.demo import run_demo

        return in_loop(partial(run_demo, settings, factory, backend, load))
    if settings.workers > 1:
        from aigw_anyio.workers.serve import run_workers

        return run_workers(
            lambda own, options: in_loop(partial(run_gateway, own, factory, options)), settings, options, load
        )
    return in_loop(partial(run_gateway, settings, factory, options))


def _run_in_loop(backend: str, backend_options: dict[str, object], run: Callable[[], Awaitable[int]]) -> int:
    try:
        return anyio.run(run, backend=backend, backend_options=backend_options)
    except KeyboardInterrupt:
        return EXIT_FAILED
    except Exception as error:  # noqa: BLE001  # say so, and leave with the documented code
        if out_of_files(error):
            logs.say(f"aigw: no file descriptors are left: the limit is {open_files_limit()} (ulimit -n)")
            return EXIT_FAILED
        # Our own bug.
        _log.critical("the gateway has failed", exc_info=True)
        return EXIT_FAILED


def _has_standard_streams() -> bool:
    """Whether facts have somewhere to go. A closed stdin or stderr becomes the null device.

    Otherwise the next socket would get the number 0, 1 or 2, and somebody's bytes with it.
    """
    has_stdout = True
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
            has_stdout = has_stdout and fd != 1
    return has_stdout

"""`python -m fuzz TARGET [--seconds N]`: atheris where it can be imported, mutations of the seeds elsewhere."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Final

from fuzz import TARGETS
from fuzz.mutation import SIZE_MAX, fails, mutants, seeds_of, shrunk

_INPUT_SECONDS_MAX: Final = 10
"""Seconds after which libFuzzer calls one input a hang: ten thousand times what one takes."""


def main() -> int:
    options = _arguments()
    names = TARGETS if options.target == "all" else (options.target,)
    if len(names) > 1:
        # One process each: libFuzzer ends the process that it runs in.
        return max([_run_apart(name, options) for name in names])
    name = names[0]
    if options.input is not None:
        return _replay(name, options.input)
    with_atheris = options.engine == "atheris" or (options.engine == "auto" and find_spec("atheris") is not None)
    return _run_atheris(name, options) if with_atheris else _run_python(name, options)


def _run_apart(name: str, options: argparse.Namespace) -> int:
    flags = ["--seconds", str(options.seconds), "--engine", options.engine, "--seed", str(options.seed)]
    if options.corpus is not None:
        flags += ["--corpus", str(options.corpus / name)]
    return subprocess.run([sys.executable, "-m", "fuzz", name, *flags], check=False).returncode


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("target", choices=[*TARGETS, "all"])
    parser.add_argument("--seconds", type=int, default=60, help="time for each target (default: 60)")
    parser.add_argument("--engine", choices=["auto", "atheris", "python"], default="auto")
    parser.add_argument("--seed", type=int, default=1, help="the same seed gives the same mutations (default: 1)")
    parser.add_argument(
        "--corpus",
        type=Path,
        help="directory where atheris keeps what it found (default: none); with `all`, one below it for each target",
    )
    parser.add_argument("--input", type=Path, help="run the check on this one file instead")
    return parser.parse_args()


def _target(name: str) -> ModuleType:
    return import_module(f"fuzz.{name}")


def _replay(name: str, path: Path) -> int:
    check: Callable[[bytes], None] = _target(name).check
    check(path.read_bytes())
    print(f"{name}: passes")
    return 0


def _run_python(name: str, options: argparse.Namespace) -> int:
    target = _target(name)
    check: Callable[[bytes], None] = target.check
    seeds = seeds_of(name)
    inputs = mutants(seeds, target.TOKENS, options.seed)
    end = time.monotonic() + options.seconds
    for runs in count():
        if time.monotonic() >= end:
            print(f"{name}: {runs} runs in {options.seconds} s, clean (seed {options.seed})")
            return 0
        data = seeds[runs] if runs < len(seeds) else next(inputs)
        failure = fails(check, data)
        if failure is not None:
            print(f"{name}: run {runs} of seed {options.seed} fails: {failure}\n{shrunk(check, data)!r}")
            return 1
    return 0


def _run_atheris(name: str, options: argparse.Namespace) -> int:
    atheris = import_module("atheris")
    # Only what is imported for the first time in here is instrumented.
    with atheris.instrument_imports(include=["aigw_core", "aigw_anyio"]):
        target = _target(name)
    work = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-"))
    dictionary = work / "dictionary"
    dictionary.write_text("".join(f'"{_escaped(token)}"\n' for token in target.TOKENS))
    corpus = options.corpus or work / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    flags = [
        # Of none at all it would run for ever.
        f"-max_total_time={max(1, options.seconds)}",
        f"-max_len={SIZE_MAX}",
        f"-timeout={_INPUT_SECONDS_MAX}",
        f"-dict={dictionary}",
        f"-artifact_prefix={work}/",
        f"-seed={options.seed}",
    ]
    atheris.Setup([name, *flags, str(corpus), str(Path(__file__).parent / "seeds" / name)], target.check)
    atheris.Fuzz()
    return 0


def _escaped(token: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in token)


if __name__ == "__main__":
    sys.exit(main())

"""Compares servers side by side: ``python -m bench.run --mode json,sse [--target NAME=URL[,pid=PID]...]``.

Windows of the targets alternate, so that what disturbs the machine hits all of them. The gateway of this
repository is started on one core; the mock provider and the load run on another, and so does ``direct``, the
load without any gateway. Ratios are taken within each round. See bench/README.md.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from bench import plot, proc, report, work
from bench.modes import COLUMNS, MODES, Bench, Settings
from bench.nginx import NginxProcess
from bench.report import Row
from bench.servers import BYO_KEY, VIRTUAL_KEY, Cores, GatewayProcess, ProviderProcess, StartError
from bench.targets import Target

WARM_REQUESTS: Final = 20
"""Of each kind and target before the first window: caches, pools, and the interpreter's specialisation."""
PEERS_PROVIDER_PORT: Final = 9100
"""Where peers that were started beforehand look for the provider."""
DIRECT: Final = "direct"
AIGW: Final = "aigw"
NGINX: Final = "nginx"
FRONTENDS: Final = {"asyncio": (AIGW, "aigw_asyncio"), "trio": (f"{AIGW}-trio", "aigw_trio")}
"""What ``--frontend`` takes: the name of the target, and the module that is run."""


def main(argv: list[str] | None = None) -> int:
    """Prints a table for each mode; returns the exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    unknown = set(arguments.mode) - set(MODES)
    if unknown:
        parser.error(f"modes are {', '.join(MODES)}")
    if set(arguments.frontend) - set(FRONTENDS):
        parser.error(f"frontends are {', '.join(FRONTENDS)}")
    # SIGTERM must stop the children too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    proc.raise_open_files_limit()
    cores = Cores.choose(arguments.gateway_core, arguments.load_core)
    if cores.load is None:
        say("these cores are not available: nothing is pinned, and figures will scatter")
    try:
        with ExitStack() as stack:
            document = _run(arguments, cores, stack)
    except (StartError, ConnectionError) as error:
        say(f"bench: {error}")
        return 1
    text = report.as_json(document)
    if arguments.json is not None:
        arguments.json.write_text(text + "\n")
    if arguments.svg is not None:
        # As it would be drawn again from the file.
        arguments.svg.write_text(plot.draw(json.loads(text)))
    return 0


def _run(arguments: argparse.Namespace, cores: Cores, stack: ExitStack) -> dict[str, object]:
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aigw-bench-")))
    provider = ProviderProcess(directory, cores.load, port=arguments.provider_port, tls=arguments.tls)
    stack.callback(provider.stop)
    targets = _targets(arguments, cores, provider, stack)
    if cores.load is not None:
        # After the children: they inherit the cores of this process.
        os.sched_setaffinity(0, {cores.load})
    first = [target.name for target in arguments.target] or [FRONTENDS[name][0] for name in arguments.frontend]
    baseline = arguments.baseline or first[0]
    if baseline not in [target.name for target in targets]:
        raise StartError(f"the baseline {baseline} is no target")
    bench = Bench(provider, cores, _settings(arguments))
    equal = _warm(bench, targets)
    # The load makes no cycles; a collection in the middle of a window would look like a slow gateway.
    gc.collect()
    gc.freeze()
    gc.disable()
    document: dict[str, object] = {
        "python": platform.python_version(),
        "baseline": baseline,
        "rounds": arguments.rounds,
        "pinned": cores.load is not None,
        "bodies_equal": equal,
        "modes": {},
    }
    modes: dict[str, object] = {}
    document["modes"] = modes
    for mode in arguments.mode:
        results = _rounds(bench, mode, targets, arguments.rounds)
        summary = report.summarise(results, COLUMNS[mode], baseline=baseline)
        modes[mode] = {"summary": summary, "rounds": results}
        print(f"\n### {mode}: min / **median** / max of {arguments.rounds} rounds; ratios are taken within a round\n")
        print(report.table(summary, COLUMNS[mode], baseline=baseline))
    document["load_average"] = os.getloadavg()
    return document


def _targets(arguments: argparse.Namespace, cores: Cores, provider: ProviderProcess, stack: ExitStack) -> list[Target]:
    """``direct``, the peers, and this repository's gateway in its variants."""
    targets = [Target(DIRECT, provider.url), *arguments.target]
    if arguments.nginx:
        targets += _nginx(cores, provider, stack)
    for frontend in arguments.frontend if not arguments.no_aigw else []:
        name, module = FRONTENDS[frontend]
        gateway = GatewayProcess(cores.gateway, provider.url, module=module)
        stack.callback(gateway.stop)
        targets.append(gateway.target(name, VIRTUAL_KEY))
        if arguments.byo:
            targets.append(gateway.target(f"{name}-byo", BYO_KEY))
        if provider.tls_url is not None:
            secure = GatewayProcess(cores.gateway, provider.tls_url, module=module, ca_file=provider.ca_file)
            stack.callback(secure.stop)
            targets.append(secure.target(f"{name}{report.TLS}", VIRTUAL_KEY))
    return targets


def _nginx(cores: Cores, provider: ProviderProcess, stack: ExitStack) -> list[Target]:
    """In front of each listener of the provider."""
    plain = NginxProcess(cores.gateway, provider.url)
    stack.callback(plain.stop)
    targets = [plain.target(NGINX)]
    if provider.tls_url is not None:
        secure = NginxProcess(cores.gateway, provider.tls_url, ca_file=provider.ca_file)
        stack.callback(secure.stop)
        targets.append(secure.target(f"{NGINX}{report.TLS}"))
    return targets


def _warm(bench: Bench, targets: list[Target]) -> dict[str, bool]:
    """Whether each target's JSON answer has the very bytes of the provider. Raises ConnectionError."""
    body, stream = work.chat_request(), work.chat_request(stream=True)
    expected = work.chat_answer()
    equal: dict[str, bool] = {}
    for target in targets:
        bench.provider.configure(events=5, delay_ms=1, answer_bytes=work.ANSWER_SIZE)
        try:
            answers = [target.exchange(body) for _ in range(WARM_REQUESTS)]
            streams = [target.exchange(stream, stream=True) for _ in range(WARM_REQUESTS)]
        except OSError as error:
            raise ConnectionError(f"{target.name} does not answer: {error}") from error
        for answer in (*answers, *streams):
            if answer.status != 200:
                raise ConnectionError(f"{target.name} answers {answer.status}: {answer.body[:300]!r}")
        equal[target.name] = all(answer.body == expected for answer in answers)
    return equal


def _rounds(bench: Bench, mode: str, targets: list[Target], rounds: int) -> dict[str, list[Row]]:
    measured = targets if mode != "mem" else [target for target in targets if target.process() is not None]
    results: dict[str, list[Row]] = {}
    for number in range(rounds):
        for variant in bench.variants(mode):
            for target in measured:
                bench.prepare(mode, variant)
                row = bench.window(mode, variant, target)
                results.setdefault(report.label(target.name, variant), []).append(row)
                shown = ", ".join(f"{key} {value:.4g}" for key, value in row.items() if value is not None)
                say(f"{mode} {number + 1}/{rounds} {report.label(target.name, variant)}: {shown}")
    return results


def _settings(arguments: argparse.Namespace) -> Settings:
    return Settings(
        seconds=arguments.seconds,
        concurrency=arguments.concurrency,
        streams=arguments.streams,
        events=arguments.events,
        delay_ms=arguments.delay_ms,
        events_per_s=arguments.events_per_s,
        body_mb=arguments.body_mb,
        transfers=arguments.transfers,
        connections=arguments.connections,
        stream_delay_ms=arguments.stream_delay_ms,
        settle=arguments.settle,
        timeout=arguments.timeout,
    )


def _parser() -> argparse.ArgumentParser:
    defaults = Settings()
    parser = argparse.ArgumentParser(
        prog="python -m bench.run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--mode", type=_list_of(str), default=["json", "sse"], help=f"some of {','.join(MODES)}; default json,sse")
    add("--target", action="append", type=_target, default=[], metavar="NAME=URL[,pid=PID|@FILE][,header=N:V]...")
    add("--baseline", help="what ratios are taken to; default: the first --target, else the first frontend")
    add("--rounds", type=int, default=5)
    add("--json", type=Path, metavar="FILE", help="also write every round and the summary")
    add("--svg", type=Path, metavar="FILE", help="also draw the ratios")
    add("--nginx", action="store_true", help="also nginx as a bare reverse proxy, if it is installed")
    add("--byo", action="store_true", help="also aigw for a caller with a key of its own: no Meter, no fact")
    add("--tls", action="store_true", help="also aigw with the provider behind TLS")
    add("--no-aigw", action="store_true", help="peers only")
    add("--frontend", type=_list_of(str), default=["asyncio"], help=f"some of {','.join(FRONTENDS)}; default asyncio")
    add("--provider-port", type=int, default=PEERS_PROVIDER_PORT, help="default %(default)s; 0 picks a free one")
    add("--gateway-core", type=int, default=0)
    add("--load-core", type=int, default=1)
    add("--seconds", type=float, default=defaults.seconds, help="json, connect: a window")
    add("--concurrency", type=_list_of(int), default=defaults.concurrency, help="json: connections, as 32,1")
    add("--streams", type=_list_of(int), default=defaults.streams, help="sse: streams at once, as 100,1000")
    add("--events", type=int, default=defaults.events, help="sse: events of a stream")
    add("--delay-ms", type=float, default=defaults.delay_ms, help="sse: between two events of a stream")
    add("--events-per-s", type=int, default=defaults.events_per_s, help="sse: the most of all streams together")
    add("--body-mb", type=int, default=defaults.body_mb)
    add("--transfers", type=int, default=defaults.transfers, help="body: transfers in a window")
    add("--connections", type=int, default=defaults.connections, help="mem: idle connections, then streams")
    add("--stream-delay-ms", type=float, default=defaults.stream_delay_ms, help="mem: between two events")
    add("--settle", type=float, default=defaults.settle, help="mem: seconds of quiet before memory is read")
    add("--timeout", type=float, default=defaults.timeout, help="sse, mem: the longest window")
    return parser


def _target(text: str) -> Target:
    try:
        return Target.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _list_of(kind: Callable[[str], object]) -> Callable[[str], list[object]]:
    def parse(text: str) -> list[object]:
        return [kind(part) for part in text.split(",")]

    parse.__name__ = "list"
    return parse


def say(text: str) -> None:
    """Progress goes to stderr, tables to stdout."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())

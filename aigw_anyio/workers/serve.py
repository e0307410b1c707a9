"""A gateway of several processes, from its settings to its end."""

from __future__ import annotations

import contextlib
import socket
from functools import partial

import anyio

from aigw_anyio import logs
from aigw_anyio.lifecycle import EXIT_FAILED, EXIT_OK, Options, Reload, cannot_listen, listening_line, serving_status
from aigw_anyio.settings import ListenAddr, Settings
from aigw_anyio.socketstream import bind_listeners
from aigw_anyio.workers.admin import serve_for_all
from aigw_anyio.workers.link import LinkNotifier
from aigw_anyio.workers.shared import Shared, make_shared
from aigw_anyio.workers.slot import SlotTiming
from aigw_anyio.workers.supervisor import Body, Supervisor
from aigw_anyio.workers.worker import RunGateway, run_worker


def run_workers(
    run: RunGateway, settings: Settings, options: Options, load: Reload, timing: SlotTiming | None = None
) -> int:
    """Serves in ``settings.workers`` processes until a signal asks to stop; returns the exit code.

    ``run`` is called in each of them, with settings and options of its own. Must run in the main thread of a
    process that has no other one.
    """
    with contextlib.ExitStack() as owned:
        name, address = "metrics_listen", settings.metrics_listen
        try:
            admin = [owned.enter_context(sock) for sock in bind_listeners(*address)]
            name, address = "listen_addr", settings.listen_addr
            shared = make_shared(settings.workers, address, admin, owned)
        except OSError as error:
            logs.say(f"aigw: {cannot_listen(name, address, error)}")
            return EXIT_FAILED
        workers: list[Body] = [partial(_worker, run, options, shared, n) for n in range(settings.workers)]
        addresses = _bound(shared.held_ports[0]), _bound(admin[0])
        supervisor = Supervisor(
            settings,
            workers,
            partial(_admin, shared),
            load,
            notifier=options.notifier,
            announcement=listening_line(*addresses),
            status=serving_status(*addresses),
            all_listen=shared.note_all_listen,
            restarted=shared.note_restart,
            release_ports=shared.release_ports,
            progress_of=shared.progress_of,
            timing=timing,
        )
        return supervisor.run()


def _worker(
    run: RunGateway, options: Options, shared: Shared, worker: int, settings: Settings, link: socket.socket
) -> int:
    shared.release_sockets()
    return run_worker(run, settings, options, shared, worker, link)


def _admin(shared: Shared, _: Settings, link: socket.socket) -> int:
    logs.label(worker="admin")
    shared.release_ports()
    notifier = LinkNotifier(link)
    told = shared.have_all_listened, shared.restarts
    anyio.run(serve_for_all, shared.admin_sockets, shared.worker_admins, notifier, *told)
    return EXIT_OK


def _bound(sock: socket.socket) -> ListenAddr:
    host, port = sock.getsockname()[:2]
    return ListenAddr(host, port)

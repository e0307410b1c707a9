"""The supervisor over processes that are not there: what the kernel would do is written down here."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from aigw_anyio import logs
from aigw_anyio.notify import Notifier
from aigw_anyio.settings import Settings, SettingsError, load_settings
from aigw_anyio.workers.link import READY, TAKE_OVER
from aigw_anyio.workers.slot import SlotTiming
from aigw_anyio.workers.supervisor import ASLEEP_SECS, FOLLOWED_SECS, Child, Supervisor


@dataclass
class Kernel:
    """Forks nobody, and says who has died."""

    sent: list[tuple[int, signal.Signals]] = field(default_factory=list)
    """(pid, signal), in order."""
    dead: dict[int, int] = field(default_factory=dict)
    """Pid → status, of those that wait to be reaped."""
    forked: int = 1000
    fork_error: OSError | None = None

    def fork(self) -> int:
        if self.fork_error is not None:
            raise self.fork_error
        self.forked += 1
        return self.forked

    def kill(self, pid: int, number: int) -> None:
        self.sent.append((pid, signal.Signals(number)))

    def waitpid(self, pid: int, _: int) -> tuple[int, int]:
        return (pid, self.dead.pop(pid)) if pid in self.dead else (0, 0)


class Told(Notifier):
    def __init__(self, watchdog_secs: float | None = None) -> None:
        super().__init__()
        self.watchdog_secs = watchdog_secs
        self.words: list[str] = []

    def ready(self, status: str) -> None:
        self.words.append(f"ready: {status}")

    def reloading(self) -> None:
        self.words.append("reloading")

    def stopping(self, status: str, within_secs: float) -> None:
        self.words.append(status)

    def alive(self) -> None:
        self.words.append("alive")


class Run:
    """A supervisor of two workers, step by step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.kernel, self.told, self.said, self.noted = Kernel(), Told(), list[str](), list[str]()
        self.config = load_settings(config=None, environ={"AI_WORKERS": "2"})[0]
        self.problem: SettingsError | None = None
        monkeypatch.setattr(os, "fork", self.kernel.fork)
        monkeypatch.setattr(os, "kill", self.kernel.kill)
        monkeypatch.setattr(os, "waitpid", self.kernel.waitpid)
        monkeypatch.setattr(logs, "say", self.said.append)
        self._pairs: list[socket.socket] = []
        self.progress = [0.0, 0.0]
        """As the workers write it."""
        pair = socket.socketpair

        def kept() -> tuple[socket.socket, socket.socket]:
            ours, theirs = pair()
            # The child's end, which the parent closes.
            self._pairs.append(theirs.dup())
            return ours, theirs

        self.supervisor = Supervisor(
            self.config,
            [self._body, self._body],
            self._body,
            self._load,
            notifier=self.told,
            announcement="listening",
            status="serving",
            all_listen=lambda: self.noted.append("all listen"),
            restarted=lambda: self.noted.append("restarted"),
            release_ports=lambda: self.noted.append("ports"),
            progress_of=lambda number: self.progress[number],
            timing=SlotTiming(retry_first=0.5, retry_longest=4.0),
        )
        monkeypatch.setattr(socket, "socketpair", kept)

    def _body(self, settings: Settings, link: socket.socket) -> int:
        raise AssertionError("nobody is forked")

    def _load(self) -> tuple[Settings, list[str]]:
        if self.problem is not None:
            raise self.problem
        return self.config, []

    def close(self) -> None:
        for child in self.children:
            self.supervisor._unlink(child)
        self.supervisor._selector.close()
        for sock in (*self._pairs, self.supervisor._wakeup, self.supervisor._wakeup_end):
            sock.close()

    @property
    def children(self) -> list[Child]:
        """Worker 0, worker 1, and the admin."""
        return self.supervisor._children

    def start_first(self) -> None:
        self.children[0].slot.start_at = 0.0
        self.look()

    def look(self, later: float = 0.0) -> None:
        self.supervisor._look(time.monotonic() + later)

    def pid(self, number: int) -> int:
        pid = self.children[number].slot.pid
        assert pid is not None
        return pid

    def end(self, number: int) -> socket.socket:
        """The child's end of its link."""
        return self._pairs[self.pid(number) - 1001]

    def ready(self, number: int) -> None:
        child = self.children[number]
        self.end(number).send(READY)
        self.supervisor._read(child)

    def all_ready(self) -> None:
        self.start_first()
        self.ready(0)
        self.look()
        self.ready(1)
        self.ready(2)

    def dies(self, number: int, status: int) -> None:
        """``status``: as of waitpid."""
        self.kernel.dead[self.pid(number)] = status
        self.supervisor._received(signal.SIGCHLD)

    def is_told_to_drain(self, number: int) -> bool:
        end = self.end(number)
        end.setblocking(False)
        try:
            return end.recv(1) == b""
        except BlockingIOError:
            return False


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    made = Run(monkeypatch)
    yield made
    made.close()


def test_others_are_started_after_the_first_and_all_are_announced_once(run: Run) -> None:
    run.start_first()
    assert [child.slot.pid is not None for child in run.children] == [True, False, False]
    run.ready(0)
    run.look()
    assert [child.slot.pid is not None for child in run.children] == [True, True, True]
    run.ready(2)
    assert run.said == []
    run.ready(1)
    assert (run.said, run.told.words, run.noted) == (["listening"], ["ready: serving"], ["all listen"])
    run.dies(1, signal.SIGKILL)
    run.look(1.0)
    run.ready(1)
    assert run.said == ["listening"]


@pytest.mark.parametrize(("status", "code"), [(256, 1), (512, 2), (signal.SIGKILL, 1), (0, 1)])
def test_a_first_worker_that_fails_is_the_end(run: Run, status: int, code: int) -> None:
    run.start_first()
    run.dies(0, status)
    run.look()
    assert (run.supervisor._is_stopping, run.supervisor._code) == (True, code)
    assert [child.slot.pid for child in run.children] == [None] * 3
    # One that could say nothing itself is spoken for.
    killed = ["aigw: worker 0 was ended by SIGKILL before it was ready"]
    assert run.said == (killed if status == signal.SIGKILL else [])


def test_who_gets_ready_while_all_end_starts_nobody(run: Run) -> None:
    run.start_first()
    run.supervisor._received(signal.SIGTERM)
    assert run.kernel.sent == [(run.pid(0), signal.SIGTERM)]
    run.ready(0)
    run.look()
    assert [child.slot.pid is not None for child in run.children] == [True, False, False]
    assert run.told.words == ["draining"]
    run.dies(0, 0)
    assert (run.said, run.supervisor._code) == ([], 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_who_is_stopped_before_it_could_listen_is_no_failure(run: Run, number: signal.Signals) -> None:
    run.start_first()
    run.supervisor._received(number)
    run.dies(0, number)
    assert (run.said, run.supervisor._code) == ([], 0)


def test_the_first_stop_is_a_word_and_the_second_two_signals(run: Run) -> None:
    run.all_ready()
    run.supervisor._received(signal.SIGTERM)
    assert run.kernel.sent == []
    assert [run.is_told_to_drain(number) for number in range(3)] == [True, True, False]
    assert run.noted == ["all listen", "ports"]
    run.supervisor._received(signal.SIGINT)
    stops = (signal.SIGTERM, signal.SIGINT)
    assert run.kernel.sent == [(run.pid(number), each) for number in range(2) for each in stops]
    assert run.told.words == ["ready: serving", "draining"]
    assert run.noted == ["all listen", "ports"]


@pytest.mark.parametrize(("status", "code"), [(0, 0), (256, 1), (signal.SIGKILL, 1), (signal.SIGTERM, 1)])
def test_the_end_is_as_clean_as_each_worker(run: Run, status: int, code: int) -> None:
    run.all_ready()
    run.supervisor._received(signal.SIGTERM)
    run.dies(0, 0)
    run.dies(1, status)
    run.look(100.0)
    assert [child.slot.pid is not None for child in run.children] == [False, False, True]
    assert run.supervisor._code == code


def test_a_sibling_takes_over_where_nobody_follows_soon(run: Run) -> None:
    run.all_ready()
    other, admin = run.end(1), run.end(2)
    for end in (other, admin):
        end.setblocking(False)
    waits = []
    for _ in range(3):
        run.dies(0, signal.SIGKILL)
        slot = run.children[0].slot
        assert slot.start_at is not None
        waits.append(round(slot.start_at - time.monotonic(), 1))
        try:
            heard = other.recv(16)
        except BlockingIOError:
            heard = b""
        assert heard == (TAKE_OVER if waits[-1] > FOLLOWED_SECS else b"")
        run.look(waits[-1] + 1.0)
        run.ready(0)
    assert waits == [0.5, 1.0, 2.0]
    with pytest.raises(BlockingIOError):
        admin.recv(16)


def test_an_end_in_the_middle_of_what_was_selected(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two die at once: the signal of the first reaps both, and the link of the second is ready to be read."""
    run.all_ready()
    for number in range(2):
        run.kernel.dead[run.pid(number)] = signal.SIGKILL
        run.end(number).close()
    keys = [run.supervisor._selector.get_key(child.link) for child in run.children[:2] if child.link is not None]
    monkeypatch.setattr(run.supervisor._selector, "select", lambda _: [(key, 1) for key in keys])
    run.supervisor._received(signal.SIGCHLD)
    run.supervisor._wait(time.monotonic())
    assert [child.link for child in run.children[:2]] == [None, None]


def test_no_signal_is_lost_in_a_flood(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a reload reads slow files: hundreds of signals more than the wakeup descriptor has room for."""
    monkeypatch.undo()
    got: list[signal.Signals] = []
    monkeypatch.setattr(run.supervisor, "_received", got.append)
    with run.supervisor._signals():
        for _ in range(2000):
            signal.raise_signal(signal.SIGHUP)
        for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGTERM):
            signal.raise_signal(number)
        run.supervisor._wait(time.monotonic())
        assert got.count(signal.SIGTERM) == 2
        assert {signal.SIGHUP, signal.SIGCHLD} <= set(got)
        assert len(got) < 10
        # A reload after what has come: the latest file counts.
        got.clear()
        threading.Timer(0.01, signal.pthread_kill, (threading.get_ident(), signal.SIGHUP)).start()
        while not got:
            run.supervisor._wait(time.monotonic())
    # What the end of the block has closed.
    run.supervisor._selector = type(run.supervisor._selector)()


def test_a_process_that_cannot_be_made_is_tried_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.start_first()
    run.ready(0)

    def fails() -> tuple[socket.socket, socket.socket]:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(socket, "socketpair", fails)
        run.look()
    run.kernel.fork_error = OSError(11, "Resource temporarily unavailable")
    run.look(0.6)
    assert [child.slot.pid for child in run.children[1:]] == [None, None]
    run.kernel.fork_error = None
    run.look(5.0)
    assert [child.slot.pid is not None for child in run.children] == [True, True, True]
    assert run.noted == [], "nobody has died"


def test_every_worker_that_takes_the_place_of_a_dead_one_is_counted(run: Run) -> None:
    run.all_ready()
    run.noted.clear()
    for number in (0, 1, 2):
        run.dies(number, signal.SIGKILL)
    assert run.noted == []
    run.look(0.6)
    # The admin process is none.
    assert run.noted == ["restarted"] * 2
    run.dies(0, signal.SIGKILL)
    run.look(9.0)
    assert run.noted == ["restarted"] * 3


def test_a_reload_before_all_are_ready_does_not_make_the_service_ready(run: Run) -> None:
    run.start_first()
    run.ready(0)
    run.look()
    run.supervisor._received(signal.SIGHUP)
    assert run.told.words == []
    assert run.kernel.sent == [(run.pid(0), signal.SIGHUP)], "others cannot take it yet"
    run.ready(1)
    run.ready(2)
    assert run.kernel.sent[1:] == [(run.pid(1), signal.SIGHUP)], "and it is kept for workers"
    assert run.told.words == ["ready: serving"]
    run.supervisor._received(signal.SIGHUP)
    assert run.told.words == ["ready: serving", "reloading", "ready: serving"]


def test_a_broken_file_changes_nothing(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    run.all_ready()
    run.problem = SettingsError(["rate_limit_rps: is no number", "x: unknown name"])
    run.supervisor._received(signal.SIGHUP)
    assert run.kernel.sent == []
    assert run.supervisor._settings is run.config
    assert [record.getMessage() for record in caplog.records] == [
        "configuration not reloaded: rate_limit_rps: is no number | x: unknown name"
    ]
    assert run.told.words[1:] == ["reloading", "ready: serving"]


def test_who_starts_after_a_reload_has_what_others_have(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    before = run.config
    run.all_ready()
    changes = {"AI_WORKERS": "3", "AI_RATE_LIMIT_RPS": "7", "AI_MAX_CONNECTIONS": "9"}
    run.config = load_settings(config=None, environ=changes)[0]
    run.supervisor._received(signal.SIGHUP)
    found = run.supervisor._settings
    assert (found.rate_limit_rps, found.workers, found.max_connections) == (7, 2, before.max_connections)
    said = [record.getMessage() for record in caplog.records]
    assert said == ["settings that take a restart have changed: max_connections, workers"]


def test_who_gives_no_sign_of_life_is_killed_once(run: Run) -> None:
    run.all_ready()
    for later in range(1, 29):
        run.look(later)
    assert run.kernel.sent == []
    run.supervisor._workers[1].slot.heard(time.monotonic() + 20.0)
    run.children[2].slot.heard(time.monotonic() + 20.0)
    for later in (31, 32, 33):
        run.look(later)
    assert run.kernel.sent == [(run.pid(0), signal.SIGKILL)]


def test_who_is_busy_is_left_alone(run: Run) -> None:
    run.all_ready()
    for later in range(1, 90):
        for child in (run.children[0], run.children[2]):
            child.slot.heard(time.monotonic() + later)
        if later < 58:
            run.progress[1] = float(later)
        run.look(later)
        assert run.kernel.sent == ([] if later < 57 + 30 else [(run.pid(1), signal.SIGKILL)])


def test_after_a_sleep_of_its_own_it_blames_nobody(run: Run) -> None:
    """A laptop that was closed, a supervisor that was stopped."""
    run.all_ready()
    run.look(ASLEEP_SECS + 100.0)
    run.look(ASLEEP_SECS + 101.0)
    assert run.kernel.sent == []


@pytest.mark.parametrize("period", [0.02, 1.0, 30.0])
def test_it_wakes_for_each_sign_of_life_that_the_manager_wants(
    run: Run, monkeypatch: pytest.MonkeyPatch, period: float
) -> None:
    """At least two within the time."""
    run.all_ready()
    run.told.watchdog_secs = period
    run.told.words.clear()
    now = began = time.monotonic()

    def sleep(secs: float) -> list[object]:
        nonlocal now
        now += secs
        return []

    monkeypatch.setattr(run.supervisor._selector, "select", sleep)
    while now < began + 10 * period:
        run.supervisor._look(now)
        run.supervisor._wait(now)
        for child in run.children:
            child.slot.heard(now)
    assert len(run.told.words) >= 19

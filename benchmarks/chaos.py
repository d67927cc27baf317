"""Trouble on purpose: ``python -m benchmarks.chaos [--times 5]``. Runs are killed, starved and
doubled at random points, then given again until they are done; each must end with the build of an
undisturbed run, byte for byte, and hold each sample once.

Captions come from a server of this file whose texts follow from the request alone. Linux only; full
disks need the right to mount a tmpfs.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow.dataset as ds
import yaml

from vila2data.build.write import write_build
from vila2data.builders.coyo_recap import CoyoRecap
from vila2data.commands import quiet_libraries
from vila2data.corpus.read import read_corpus
from vila2data.recipe import load_recipe

from .corpora import make_corpus

SAMPLES, SHARDS = 72, 12
MODEL = "hashed"
ANSWER_S = 0.03
_PATIENCE_S = 120.0
_TRIES = 20

# The wall clock of a driver that jumps by a day at each look.
_JUMPING = """
import random, sys, time
real = time.time
time.time = lambda: real() + random.choice([-86400.0, 0.0, 86400.0])
from vila2data.__main__ import main
main()
"""


class _Answers(BaseHTTPRequestHandler):
    """The chat protocol, with a text that is a hash of the request."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._tell({"object": "list", "data": [{"id": MODEL, "object": "model"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        time.sleep(ANSWER_S)
        drawn = hashlib.sha256(json.dumps([body["messages"], body["seed"]]).encode()).hexdigest()
        message = {"role": "assistant", "content": f"A picture of {drawn[:8]} and {drawn[8:16]}."}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18}
        base = {"id": "x", "object": "chat.completion", "created": 0, "model": MODEL}
        self._tell({**base, "choices": [choice], "usage": usage})

    def _tell(self, content: dict[str, object]) -> None:
        told = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(told)))
        self.end_headers()
        self.wfile.write(told)

    def log_message(self, format: str, *args: object) -> None:
        pass


def _serve(port: int) -> None:
    ThreadingHTTPServer(("127.0.0.1", port), _Answers).serve_forever()


class Server:
    """One such server, in a process of its own."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        code = f"from benchmarks.chaos import _serve; _serve({self.port})"
        # Clients that are killed make it complain.
        self.process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
        _wait_for(self._answers, "a server that answers")

    def _answers(self) -> bool:
        with socket.socket() as tried:
            return tried.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@dataclass
class Trial:
    """A run, where it is disturbed, and what was done to it."""

    folder: Path
    corpus: Path
    servers: Sequence[Server]
    random: random.Random
    disturbed: int = 0
    starts: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def run(self) -> Path:
        return self.folder / "run"

    def recipe(self, *, executor: dict[str, object] | None = None, run: Path | None = None) -> Path:
        """A recipe of the run; who works may differ from start to start."""
        engine = {
            "name": "openai",
            "base_url": [server.url for server in self.servers],
            "model": MODEL,
            "in_flight": 3,
            "tries": 2,
            "first_wait_s": 0.05,
            "give_up_after": 8,
        }
        content = {
            "builder": "coyo-recap",
            "version": "1.0.0",
            "license": "cc-by-4.0",
            "corpus": str(self.corpus),
            "out": str(self.folder / "builds"),
            "recaption": {
                "run": str(run or self.run),
                "round": 1,
                "engine": engine,
                "executor": executor or {},
            },
        }
        file = self.folder / f"recipe-{self.starts}.yaml"
        file.write_text(yaml.safe_dump(content))
        return file

    def start(
        self,
        *options: str,
        executor: dict[str, object] | None = None,
        environment: dict[str, str] | None = None,
        code: Sequence[str] = ("-m", "vila2data"),
        run: Path | None = None,
    ) -> "subprocess.Popen[str]":
        """`vila2data recaption` on the run."""
        self.starts += 1
        file = self.recipe(executor=executor, run=run)
        return subprocess.Popen(
            [sys.executable, *code, "recaption", str(file), *options],
            env={**os.environ, **(environment or {})},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finished(self, run: Path | None = None) -> int:
        return len(list(((run or self.run) / "shards").glob("[!.]*.parquet")))

    def wait_inside(self, process: "subprocess.Popen[str]", run: Path | None = None) -> bool:
        """Until a random point of the work; whether the process still lives then."""
        shards = self.random.randrange(SHARDS - 1)
        _wait_for(lambda: self.finished(run) >= shards or process.poll() is not None, "shards")
        time.sleep(self.random.uniform(0, 0.3))
        return process.poll() is None

    def kill(self, process_id: int) -> None:
        os.kill(process_id, signal.SIGKILL)
        self.disturbed += 1

    def until_done(self, **how: object) -> None:
        """Gives the command again until it ends well."""
        for _ in range(_TRIES):
            process = self.start(**how)  # type: ignore[arg-type]
            _, said = process.communicate(timeout=_PATIENCE_S)
            if process.returncode == 0:
                return
            self.notes.append(said.strip().splitlines()[-1])
        raise AssertionError(f"{self.folder}: {_TRIES} times in vain: {self.notes[-1]}")


def _wait_for(holds: Callable[[], bool], what: str) -> None:
    until_s = time.monotonic() + _PATIENCE_S
    while not holds():
        if time.monotonic() > until_s:
            raise AssertionError(f"waited {_PATIENCE_S} s for {what}")
        time.sleep(0.01)


def kill_driver(trial: Trial, *, workers: int = 1) -> None:
    for _ in range(2):
        process = trial.start(executor={"workers": workers})
        if trial.wait_inside(process):
            trial.kill(process.pid)
        process.communicate()
    trial.until_done(executor={"workers": workers})


def kill_worker(trial: Trial) -> None:
    process = trial.start(executor={"workers": 2})
    if trial.wait_inside(process):
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        workers = [int(one) for one in children if "spawn_main" in _command_of(int(one))]
        if workers:
            trial.kill(trial.random.choice(workers))
    process.communicate(timeout=_PATIENCE_S)
    trial.until_done(executor={"workers": 2})


def _command_of(process_id: int) -> str:
    try:
        return Path(f"/proc/{process_id}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def kill_server(trial: Trial) -> None:
    """One of two, which comes back later."""
    process = trial.start()
    if trial.wait_inside(process):
        victim = trial.random.choice(trial.servers)
        victim.kill()
        trial.disturbed += 1
        time.sleep(trial.random.uniform(0, 0.5))
        victim.start()
    _, said = process.communicate(timeout=_PATIENCE_S)
    assert process.returncode == 0, said  # the other one took over


def kill_all_servers(trial: Trial) -> None:
    process = trial.start()
    if trial.wait_inside(process):
        for server in trial.servers:
            server.kill()
        trial.disturbed += 1
        _, said = process.communicate(timeout=_PATIENCE_S)
        assert process.returncode == 1, said
        assert "up?" in said
        for server in trial.servers:
            server.start()
    process.communicate()
    trial.until_done()


def two_drivers(trial: Trial) -> None:
    first = trial.start()
    if trial.wait_inside(first):
        second = trial.start()
        _, said = second.communicate(timeout=_PATIENCE_S)
        if first.poll() is None:
            assert second.returncode == 1, said
            assert "another process works on this run" in said
            trial.disturbed += 1
    first.communicate(timeout=_PATIENCE_S)
    assert first.returncode == 0
    trial.until_done()


def parts(trial: Trial) -> None:
    """Three commands with a part each, one more with a part of another cut; two are killed."""
    given = [("0", "3"), ("1", "3"), ("2", "3"), ("1", "2")]
    processes = [
        trial.start("--shard-index", index, "--num-shards", count) for index, count in given
    ]
    for victim in trial.random.sample(processes, 2):
        if trial.wait_inside(victim):
            trial.kill(victim.pid)
    for process in processes:
        process.communicate(timeout=_PATIENCE_S)
    trial.until_done()


def clock_jumps(trial: Trial) -> None:
    process = trial.start(code=("-c", _JUMPING))
    if trial.wait_inside(process):
        trial.kill(process.pid)
    process.communicate()
    trial.until_done(code=("-c", _JUMPING))


def full_disk(trial: Trial) -> None:
    disk = trial.run
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "vila2data-chaos", str(disk)]
    subprocess.run(mount, check=True)
    try:
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        filler = disk / "filler"
        filler.write_bytes(b"\0" * (free - trial.random.randrange(0, 160_000)))
        process = trial.start()
        _, said = process.communicate(timeout=_PATIENCE_S)
        trial.disturbed += process.returncode == 1
        assert process.returncode == 0 or "no space left" in said, said
        filler.unlink()
        trial.until_done()
        kept = trial.folder / "kept"
        shutil.copytree(disk, kept)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
    disk.rmdir()
    kept.rename(disk)


@contextmanager
def _cluster(nodes: int) -> Iterator[object]:
    """Ray nodes on this machine; the first one holds no workers."""
    from ray.cluster_utils import Cluster

    told = {"include_dashboard": False, "num_cpus": 0, "object_store_memory": 100 << 20}
    cluster = Cluster(initialize_head=True, head_node_args=told)
    for _ in range(nodes):
        cluster.add_node(num_cpus=2, object_store_memory=100 << 20)
    try:
        yield cluster
    finally:
        cluster.shutdown()


_ON_RAY: dict[str, object] = {"kind": "ray", "workers": 2}


def kill_actor(trial: Trial) -> None:
    with _cluster(1) as cluster:
        process = trial.start(executor=_ON_RAY, environment={"RAY_ADDRESS": cluster.address})  # type: ignore[attr-defined]
        if trial.wait_inside(process):
            actors = subprocess.run(["pgrep", "-f", "ray::_Actor"], capture_output=True, text=True)
            if found := actors.stdout.split():
                trial.kill(int(trial.random.choice(found)))
        _, said = process.communicate(timeout=_PATIENCE_S)
        assert process.returncode == 0, said


def kill_node(trial: Trial) -> None:
    with _cluster(2) as cluster:
        process = trial.start(executor=_ON_RAY, environment={"RAY_ADDRESS": cluster.address})  # type: ignore[attr-defined]
        if trial.wait_inside(process):
            node = trial.random.choice(list(cluster.worker_nodes))  # type: ignore[attr-defined]
            cluster.remove_node(node, allow_graceful=False)  # type: ignore[attr-defined]
            trial.disturbed += 1
        _, said = process.communicate(timeout=_PATIENCE_S)
        assert process.returncode == 0, said


def mixture(trial: Trial) -> None:
    """One run by a driver, parts and workers in turn, each killed; then Ray ends it."""
    for options, executor in (
        ((), {"workers": 1}),
        (("--shard-index", "1", "--num-shards", "2"), {"workers": 1}),
        ((), {"workers": 2}),
    ):
        process = trial.start(*options, executor=executor)
        if trial.wait_inside(process):
            trial.kill(process.pid)
        process.communicate()
    with _cluster(1) as cluster:
        trial.until_done(executor=_ON_RAY, environment={"RAY_ADDRESS": cluster.address})  # type: ignore[attr-defined]


KINDS: dict[str, Callable[[Trial], None]] = {
    "driver killed, twice": kill_driver,
    "driver with two workers killed, twice": lambda trial: kill_driver(trial, workers=2),
    "worker killed": kill_worker,
    "one of two servers killed": kill_server,
    "all servers killed": kill_all_servers,
    "two drivers on one run": two_drivers,
    "four commands with parts, two killed": parts,
    "wall clock jumps by days, driver killed": clock_jumps,
    "disk full": full_disk,
    "Ray actor killed": kill_actor,
    "Ray node killed": kill_node,
    "driver, part and workers killed in turn, Ray ends it": mixture,
}


def _hashes(build: Path) -> dict[str, str]:
    return {
        file.relative_to(build).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(build.rglob("*.parquet"))
    }


def _built(trial: Trial) -> Path:
    recipe = load_recipe(trial.recipe())
    return write_build(CoyoRecap, recipe)


def _check(build: Path, expected: dict[str, str], keys: Counter[str]) -> None:
    """The tables of an undisturbed run, and each sample once, kept or rejected."""
    assert _hashes(build) == expected, f"{build} is another"
    found = Counter[str]()
    for config in ("round1", "round1-rejects"):
        folder = build / "data" / config
        if folder.is_dir():
            found.update(ds.dataset(folder).to_table(["key"])["key"].to_pylist())
    assert found == keys, f"{build} lost or doubled rows"


def main(times: int = 5, only: Sequence[str] = (), seed: int = 0) -> None:
    print("\n### Runs that are disturbed\n")
    print("| what | trials | disturbed | starts | right build, each sample once |")
    print("|---|---:|---:|---:|---:|")
    quiet_libraries()
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        corpus = make_corpus(Path(place) / "corpus", images=SAMPLES, shards=SHARDS)
        keys = Counter(sample.key for sample in read_corpus(corpus))
        servers = [Server(), Server()]
        for server in servers:
            stack.callback(server.kill)

        def trial_in(name: str, number: int) -> Trial:
            folder = Path(place) / name
            folder.mkdir()
            return Trial(folder, corpus, servers, random.Random(seed * 1_000_003 + number))

        quiet = trial_in("quiet", 0)
        quiet.until_done()
        expected = _hashes(_built(quiet))
        number = 0
        for kind, disturb in KINDS.items():
            if only and kind not in only:
                continue
            trials = []
            for _ in range(times):
                number += 1
                trial = trial_in(str(number), number)
                disturb(trial)
                _check(_built(trial), expected, keys)
                trials.append(trial)
                shutil.rmtree(trial.folder)
            told = (sum(t.disturbed for t in trials), sum(t.starts for t in trials))
            print(f"| {kind} | {times} | {told[0]} | {told[1]} | {len(trials)} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--only", action="append", default=[], choices=list(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    main(given.times, given.only, given.seed)

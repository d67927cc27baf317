"""One run that is disturbed: its starts, the random points, and what really happened."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import yaml

from vila2data.storage import Place

from .processes import PATIENCE_S, holds_file_in, kill_all, wait_for
from .servers import MODEL, Server

SAMPLES, SHARDS = 72, 12
_TRIES = 20
_DAWDLE_S = 0.1  # about as long as a shard takes


@dataclass
class Trial:
    """A run of its own, whose build is compared at the end.

    Attributes:
        corpus: where its shards lie; ``run`` is where it goes.
        happened: the disturbances that met what they were meant for, in words.
        build: made already, where the run does not stay.
        settings: of the recipe, in place of the usual ones; for all starts and the build.
    """

    folder: Path
    corpus: Place
    servers: Sequence[Server]
    random: random.Random
    happened: list[str] = field(default_factory=list)
    settings: dict[str, object] = field(default_factory=dict)
    starts: int = 0
    build: Path | None = None

    def __post_init__(self) -> None:
        self.run: Place = self.folder / "run"

    def recipe(self, executor: Mapping[str, object] | None = None) -> Path:
        """A recipe of the run; who works may differ from start to start."""
        engine = {
            "name": "openai",
            "base_url": [server.url for server in self.servers],
            "model": MODEL,
            "in_flight": 3,
            "timeout_s": PATIENCE_S,
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
                "run": str(self.run),
                "round": 1,
                "engine": engine,
                "executor": dict(executor or {}),
            },
            **self.settings,
        }
        file = self.folder / f"recipe-{self.starts}.yaml"
        file.write_text(yaml.safe_dump(content))
        return file

    def start(
        self,
        *options: str,
        executor: Mapping[str, object] | None = None,
        environment: Mapping[str, str] | None = None,
        code: Sequence[str] = ("-m", "vila2data"),
    ) -> "subprocess.Popen[str]":
        """`vila2data recaption` on the run."""
        self.starts += 1
        file = self.recipe(executor)
        return subprocess.Popen(
            [sys.executable, *code, "recaption", str(file), *options],
            env={**os.environ, **(environment or {})},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end_of(self, process: "subprocess.Popen[str]") -> str:
        """Waits for it, and returns what it said."""
        return process.communicate(timeout=PATIENCE_S)[1].strip()

    def until_done(
        self,
        *,
        executor: Mapping[str, object] | None = None,
        environment: Mapping[str, str] | None = None,
        code: Sequence[str] = ("-m", "vila2data"),
    ) -> None:
        """Gives the command again until it ends well."""
        said = ""
        for _ in range(_TRIES):
            process = self.start(executor=executor, environment=environment, code=code)
            said = self.end_of(process)
            if process.returncode == 0:
                return
        raise AssertionError(f"{self.folder}: {_TRIES} times in vain: {said}")

    def finished(self) -> int:
        return len(list((self.run / "shards").glob("[!.]*.parquet")))

    def wait_inside(self, process: "subprocess.Popen[str]", *, least: int = 0) -> bool:
        """Until a random point of the work of ``process``, and whether it is still at it then.

        Args:
            process: a start of this run.
            least: shards that are finished by then.
        """

        def ended() -> bool:
            return process.poll() is not None

        if isinstance(self.run, Path):
            folder = self.run
            wait_for(lambda: ended() or holds_file_in(process.pid, folder), "the run's lock")
        begun = self.finished()
        shards = max(least, begun + self.random.randrange(max(1, SHARDS - begun - 1)))
        wait_for(lambda: ended() or self.finished() >= shards, "shards")
        time.sleep(self.random.uniform(0, _DAWDLE_S))
        return not ended() and self.finished() < SHARDS

    def note(self, what: str) -> None:
        """What has just happened to the run."""
        self.happened.append(f"{what} with {self.finished()} of {SHARDS} shards finished")

    def kill_command(self, process: "subprocess.Popen[str]", what: str) -> None:
        """Kills a start where it still works, at a random point."""
        if self.wait_inside(process):
            process.kill()
            process.wait()
            if process.returncode == -signal.SIGKILL and self.finished() < SHARDS:
                self.note(f"{what} killed")
        self.end_of(process)

    def kill_one(self, candidates: list[psutil.Process], what: str) -> None:
        """Kills one of the processes that work for a start of this run, if there are any."""
        if candidates:
            self.kill_together([self.random.choice(candidates)], what)

    def kill_together(self, victims: list[psutil.Process], what: str) -> None:
        """Kills processes that work for a start of this run, at once."""
        if (killed := kill_all(victims)) and self.finished() < SHARDS:
            self.note(f"{what} killed ({killed} processes)" if killed > 1 else f"{what} killed")

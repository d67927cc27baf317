"""Starts and ends the process of `failing_server`."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Served:
    """A running server: its address, and what it was asked."""

    port: int
    log: Path
    process: "subprocess.Popen[str]"

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def notes(self) -> list[dict[str, Any]]:
        lines = self.log.read_text().splitlines() if self.log.is_file() else []
        return [json.loads(line) for line in lines]

    def kill(self) -> None:
        """kill -9, and waits until it is gone."""
        self.process.kill()
        self.process.wait()


@contextmanager
def serving(folder: Path, *, port: int = 0, **plan: Any) -> Iterator[Served]:
    """A server with a plan of faults, for as long as the context lasts."""
    log = folder / "server.jsonl"
    script = Path(__file__).with_name("failing_server.py")
    process = subprocess.Popen(
        [sys.executable, "-S", str(script), str(port), str(log), json.dumps(plan)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield Served(int(process.stdout.readline()), log, process)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()

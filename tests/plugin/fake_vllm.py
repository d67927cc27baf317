"""Makes a program `vllm` that starts `failing_server` where the real one would start itself."""

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

SCRIPT = """#!{python} -S
import json, os, signal, subprocess, sys, time
from pathlib import Path
here = Path({folder!r})
plan = json.loads((here / "plan.json").read_text())
worker = subprocess.Popen(
    [sys.executable, "-S", "-c", "import signal; signal.signal(15, signal.SIG_IGN); signal.pause()"]
)
note = {{"pid": os.getpid(), "worker": worker.pid, "arguments": sys.argv[1:]}}
note["gpus"] = os.environ.get("CUDA_VISIBLE_DEVICES")
starts = here / "starts.jsonl"
with starts.open("a") as log:
    log.write(json.dumps(note) + "\\n")
port = sys.argv[sys.argv.index("--port") + 1]
print("fake vllm on port", port, flush=True)
if plan == "never_ready":
    signal.pause()
if plan == "dies" or (plan == "dies_again" and len(starts.read_text().splitlines()) > 1):
    sys.exit("no such model")
os.execv(
    sys.executable, [sys.executable, "-S", {server!r}, port, str(here / f"{{port}}.jsonl"), "{{}}"]
)
"""


class FakeVllm:
    """The program in ``folder``/bin, and what it noted of its starts."""

    def __init__(self, folder: Path, plan: str = "serves") -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)
        (folder / "plan.json").write_text(json.dumps(plan))
        server = Path(__file__).with_name("failing_server.py")
        program = self.bin / "vllm"
        program.write_text(
            SCRIPT.format(python=sys.executable, folder=str(folder), server=str(server))
        )
        program.chmod(program.stat().st_mode | stat.S_IXUSR)

    @property
    def path(self) -> str:
        """PATH with the program."""
        return f"{self.bin}{os.pathsep}{os.environ['PATH']}"

    def starts(self) -> list[dict[str, Any]]:
        """Process, worker, arguments and GPUs of each start."""
        file = self.folder / "starts.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

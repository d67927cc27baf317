import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_vllm import FakeVllm
from making import do, make_corpus, write_recipe

from vila2data.build.manifest import read_manifest
from vila2data.errors import BadInput, MissingExtra, RunFailed
from vila2data.serve import leash
from vila2data.serve.processes import serve, vllm_program
from vila2data.serve.rules import ServeRules, server_commands


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for found in sockets:
        found.bind(("127.0.0.1", 0))
    ports = [found.getsockname()[1] for found in sockets]
    for found in sockets:
        found.close()
    return ports


def is_there(pid: int) -> bool:
    """Whether a process runs; one that is dead and not yet collected does not."""
    told = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return told.stdout.strip()[:1] not in ("", "Z")


def assert_gone(fake: FakeVllm) -> None:
    pids = [start[who] for start in fake.starts() for who in ("pid", "worker")]
    assert pids
    give_up_s = time.monotonic() + 20  # a kill takes its time
    while any(map(is_there, pids)):
        assert time.monotonic() < give_up_s, pids
        time.sleep(0.05)


class Served:
    """One life of `serve` in this process, ended by SIGTERM."""

    def __init__(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plan: str = "serves"
    ) -> None:
        self.fake = FakeVllm(tmp_path / "fake", plan)
        self.logs = tmp_path / "logs"
        self.told: list[str] = []
        monkeypatch.setenv("PATH", self.fake.path)

    def run(
        self, ports: list[int], on_line: Callable[[str], Any] = lambda _: None, **rules: Any
    ) -> None:
        given = ServeRules(model="x", **{"first_wait_s": 0.0, **rules})
        urls = [f"http://127.0.0.1:{port}/v1" for port in ports]

        def tell(line: str) -> None:
            self.told.append(line)
            on_line(line)

        serve(
            server_commands(given, urls, "m", {}),
            given,
            logs=self.logs,
            tell=tell,
            ready=lambda: tell("all are ready"),
        )


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Served:
    return Served(tmp_path, monkeypatch)


def end() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_server_that_is_killed_is_started_again_and_all_end_with_this_process(
    served: Served,
) -> None:
    ports = free_ports(2)

    def on_line(line: str) -> None:
        if line == "all are ready":
            os.kill(served.fake.starts()[0]["pid"], signal.SIGKILL)
        elif line.startswith("ready") and len(served.fake.starts()) == 3:
            end()

    before = signal.getsignal(signal.SIGTERM)
    served.run(ports, on_line)
    assert signal.getsignal(signal.SIGTERM) == before
    starts = served.fake.starts()
    killed = starts[0]["arguments"]
    assert [start["arguments"] for start in starts].count(killed) == 2
    died = [line for line in served.told if "died with status -9" in line]
    assert len(died) == 1
    assert died[0].endswith("started again in 0 s")
    assert served.told.count("all are ready") == 1
    assert served.told[-1] == "all servers are ended"
    assert_gone(served.fake)
    port = killed[killed.index("--port") + 1]
    assert (served.logs / f"{port}.log").read_text().count(f"fake vllm on port {port}\n") == 2


def test_a_port_that_is_taken_is_told_before_anything_is_started(served: Served) -> None:
    free, taken = free_ports(2)
    with socket.socket() as other:
        other.bind(("127.0.0.1", taken))
        other.listen()
        with pytest.raises(BadInput, match=f"port {taken} of this machine cannot be used"):
            served.run([free, taken])
    assert served.fake.starts() == []


def test_logs_that_can_be_no_folder_are_told_before_anything_is_started(served: Served) -> None:
    served.logs.touch()
    with pytest.raises(BadInput, match=r"logs: cannot be a folder of logs \(File exists\)"):
        served.run(free_ports(1))
    assert served.fake.starts() == []


def test_a_server_that_is_never_ready_ends_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = Served(tmp_path, monkeypatch, "never_ready")
    with pytest.raises(RunFailed, match=r"/v1 did not answer in 1.5 s; .*\.log "):
        served.run(free_ports(2), ready_s=1.5)
    assert_gone(served.fake)


def test_a_server_that_dies_at_its_first_start_is_told_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = Served(tmp_path, monkeypatch, "dies")
    with pytest.raises(RunFailed, match=r"died with status 1; .*ends with: .*no such model"):
        served.run(free_ports(1))
    assert len(served.fake.starts()) == 1
    assert_gone(served.fake)


def test_a_server_that_dies_again_and_again_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = Served(tmp_path, monkeypatch, "dies_again")

    def on_line(line: str) -> None:
        if line == "all are ready":
            os.kill(served.fake.starts()[0]["pid"], signal.SIGKILL)

    with pytest.raises(RunFailed, match="every server died too often"):
        served.run(free_ports(1), on_line, restarts=2, first_wait_s=0.01)
    assert len(served.fake.starts()) == 3
    waits = [line.rpartition("; ")[2] for line in served.told if " died with " in line]
    assert waits == [
        "started again in 0.01 s",
        "started again in 0.02 s",
        "given up after 2 restarts",
    ]
    assert_gone(served.fake)


def test_a_missing_vllm_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(MissingExtra, match=r"vllm is not installed.*'vila2data\[vllm\]'"):
        vllm_program()


def serving_recipe(tmp_path: Path, **serve: Any) -> Path:
    make_corpus(tmp_path / "corpus", 12, shards=2)
    urls = [f"http://127.0.0.1:{port}/v1" for port in free_ports(2)]
    engine = {"name": "openai", "model": "m", "base_url": urls, "serve": {"model": "x", **serve}}
    return write_recipe(tmp_path / "r.yaml", recaption={"engine": engine})


def test_the_command_serves_what_recaption_asks(tmp_path: Path) -> None:
    fake = FakeVllm(tmp_path / "fake")
    recipe = serving_recipe(tmp_path, gpus_per_server=1)
    code = (
        "import signal; signal.signal(2, signal.default_int_handler); "  # ignored where tests run in the background
        "from vila2data.cli import main; main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, "serve", recipe, "--set", "seed=3", "--logs", tmp_path / "l"],
        env={**os.environ, "PATH": fake.path, "CUDA_VISIBLE_DEVICES": "6,7"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        told = list(
            iter(process.stdout.readline, f"next: vila2data recaption {recipe} --set seed=3\n")
        )
        assert sum(line.startswith("ready: ") for line in told) == 2
        build = do(recipe)
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    finally:
        process.terminate()
        process.wait(60)
        process.stdout.close()
    assert process.returncode == 0
    assert rest == "all servers are ended\n"
    assert read_manifest(build).rows_of("round1") == 12
    assert sorted(start["gpus"] for start in fake.starts()) == ["6", "7"]
    assert_gone(fake)


@pytest.mark.parametrize("plan", ["serves", "never_ready"])
def test_servers_and_their_workers_end_with_a_command_that_is_killed(
    tmp_path: Path, plan: str
) -> None:
    fake = FakeVllm(tmp_path / "fake", plan)
    recipe = serving_recipe(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-m", "vila2data", "serve", recipe, "--logs", tmp_path / "l"],
        env={**os.environ, "PATH": fake.path},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        awaited = "next: " if plan == "serves" else "started "
        assert any(line.startswith(awaited) for line in process.stdout)
        give_up_s = time.monotonic() + 20
        while len(fake.starts()) < 2:
            assert time.monotonic() < give_up_s
            time.sleep(0.05)
        pids = [start["pid"] for start in fake.starts()]
        assert all(map(is_there, pids))
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert_gone(fake)


def test_a_program_that_does_not_end_when_asked_is_killed_with_its_parent(tmp_path: Path) -> None:
    code = (
        "import signal; signal.signal(15, signal.SIG_IGN); print('up', flush=True); signal.pause()"
    )
    quick = (
        "import sys; from vila2data.serve import leash; leash.END_S = 0.2; leash.main(sys.argv[1:])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", quick, sys.executable, "-S", "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        process.send_signal(signal.SIGTERM)  # for the program alone
        process.stdin.close()
        assert process.stdout.read() == b""  # the program held it
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize(("code", "status"), [("raise SystemExit(3)", 3), ("os.abort()", -6)])
def test_a_leash_ends_as_its_program_does(code: str, status: int) -> None:
    program = [sys.executable, "-S", "-c", f"import os; {code}"]
    with subprocess.Popen(
        [sys.executable, "-I", "-S", leash.__file__, *program], stdin=subprocess.PIPE
    ) as process:
        assert process.wait(60) == status


def test_a_dry_run_prints_the_commands_and_a_recipe_without_servers_is_refused(
    cli: Any, tmp_path: Path
) -> None:
    recipe = serving_recipe(tmp_path, arguments={"max_model_len": 4096})
    content = yaml.safe_load(recipe.read_text())
    ports = [url[17:22] for url in content["recaption"]["engine"]["base_url"]]
    dry = cli("serve", recipe, "--dry-run")
    assert dry.stdout.splitlines() == [
        f"vllm serve x --port {port} --served-model-name m --host 127.0.0.1 --max-model-len 4096"
        for port in ports
    ]
    refused = cli("serve", recipe, "--set", "recaption.engine={name: fake}")
    assert refused.returncode == 2
    assert "its engine is 'fake' without a block 'serve:'" in refused.stderr

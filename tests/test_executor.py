import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from vila2data.errors import RunFailed
from vila2data.executor import ExecutorSpec, run_tasks


def square(number: int) -> int:
    if number == 0:
        time.sleep(0.2)  # the first to begin is the last to end
    return number * number


def die(number: int) -> int:
    os._exit(9)


def tell_and_stay(file: Path) -> None:
    file.write_text(str(os.getpid()))
    time.sleep(60)


def refuse(number: int) -> int:
    raise ValueError(f"task {number}")


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_the_tasks(workers: int) -> None:
    found = run_tasks(square, iter(range(7)), ExecutorSpec(workers=workers))
    assert list(found) == [n * n for n in range(7)]


def test_ray_gives_the_same() -> None:
    pytest.importorskip("ray")
    found = run_tasks(square, iter(range(7)), ExecutorSpec(kind="ray", workers=2))
    assert list(found) == [n * n for n in range(7)]


def test_tasks_are_drawn_as_they_are_needed() -> None:
    drawn: list[int] = []
    tasks = (drawn.append(n) or n for n in range(1000))
    results = run_tasks(square, tasks, ExecutorSpec(workers=1))
    assert next(results) == 0
    assert drawn == [0]


def test_a_worker_that_is_killed_ends_the_run_with_what_to_do() -> None:
    with pytest.raises(RunFailed, match=r"a worker process was killed.*run the same command again"):
        list(run_tasks(die, [1, 2], ExecutorSpec(workers=2)))


_PARENT = """
from pathlib import Path
from test_executor import tell_and_stay
from vila2data.executor import ExecutorSpec, run_tasks

if __name__ == "__main__":
    list(run_tasks(tell_and_stay, [Path("a"), Path("b")], ExecutorSpec(workers=2)))
"""


def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(_PARENT)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    parent = subprocess.Popen([sys.executable, "parent.py"], cwd=tmp_path, env=environment)
    until(lambda: all((tmp_path / name).exists() for name in "ab"))
    workers = [int((tmp_path / name).read_text()) for name in "ab"]
    assert all(Path(f"/proc/{worker}").exists() for worker in workers)
    parent.kill()
    parent.wait()
    until(lambda: not any(is_alive(worker) for worker in workers))


def is_alive(process: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except FileNotFoundError:
        return False


def until(is_so: Callable[[], bool]) -> None:
    for _ in range(600):
        if is_so():
            return
        time.sleep(0.1)
    pytest.fail("waited for a minute")


def test_an_error_of_a_task_is_raised_as_it_is() -> None:
    with pytest.raises(ValueError, match="task 1"):
        list(run_tasks(refuse, [1, 2], ExecutorSpec(workers=2)))


def test_ray_that_is_not_installed_is_a_problem_of_the_recipe(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("vila2data.executor.find_spec", lambda name: None)
    assert ExecutorSpec(kind="ray").problems() == [
        "kind: ray is not installed; pip install 'vila2data[ray]'"
    ]
    assert ExecutorSpec().problems() == []

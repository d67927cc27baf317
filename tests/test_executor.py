import os
import time
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

"""Timing of alternatives in turn, so that a drift of the machine's speed meets all of them."""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping


def seconds_in_turn(work: Mapping[str, Callable[[], object]], *, rounds: int) -> dict[str, float]:
    """Median seconds of each alternative, run A B C A B C …, after one warm-up round."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for number in range(rounds + 1):
        for name, run in work.items():
            began_s = time.perf_counter()
            run()
            if number:
                seconds[name].append(time.perf_counter() - began_s)
    return {name: statistics.median(found) for name, found in seconds.items()}


def process(*arguments: str) -> Callable[[], object]:
    """A whole Python process, its output thrown away."""
    command = [sys.executable, *arguments]
    return lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def show(title: str, rows: int, unit: str, seconds: Mapping[str, float], *, against: str) -> None:
    """A Markdown table of rates and ratios against one of the alternatives."""
    print(f"\n### {title}\n\n| | seconds | {unit}/s | × {against} |\n|---|---:|---:|---:|")
    for name, found in seconds.items():
        rate, ratio = rows / found, seconds[against] / found
        print(f"| {name} | {found:.2f} | {rate:,.{0 if rate > 99 else 1}f} | {ratio:.2f} |")

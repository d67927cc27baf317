"""Runs all benchmarks: ``python -m benchmarks``, or some by name: ``python -m benchmarks feed``."""

import sys
from collections.abc import Callable

from . import blend, feed, grounding, memory, overlap, pipeline, spatial, statistics

BENCHMARKS: dict[str, Callable[[], None]] = {
    "statistics": statistics.main,
    "pipeline": pipeline.main,
    "memory": memory.main,
    "feed": feed.main,
    "spatial": spatial.main,
    "grounding": grounding.main,
    "blend": blend.main,
    "overlap": overlap.main,
}


def main(names: list[str]) -> None:
    for name in names or BENCHMARKS:
        BENCHMARKS[name]()


if __name__ == "__main__":
    main(sys.argv[1:])

"""Peak memory of a recaption run and of a build, from 1 to 8 shards of the same size."""

import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from vila2data.build.write import write_build
from vila2data.builders.coyo_recap import CoyoRecap
from vila2data.recaption.run import run

from .corpora import InstantEngine, make_corpus, recipe

IMAGES_PER_SHARD = 2000


def measure(corpus: Path, folder: Path) -> None:
    """Prints the peak after the run and after the build, in MiB."""
    engine = {"name": "openai", "base_url": "http://localhost:1", "model": "never asked"}
    made = recipe(corpus, folder, engine, "run")
    assert made.recaption is not None
    run(made.recaption, corpus, seed=0, engine=InstantEngine())
    after_run = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    write_build(CoyoRecap, made)
    print(after_run, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    print("\n### Peak memory, whole processes\n\n| shards | images | run, MiB | and build, MiB |")
    print("|---:|---:|---:|---:|")
    for shards in (1, 2, 4, 8):
        images = shards * IMAGES_PER_SHARD
        with tempfile.TemporaryDirectory() as folder:
            corpus = make_corpus(Path(folder) / "corpus", images=images, shards=shards)
            command = [sys.executable, "-m", "benchmarks.memory", str(corpus), folder]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            run_mib, build_mib = map(float, done.stdout.split()[-2:])
        print(f"| {shards} | {images:,} | {run_mib:,.0f} | {build_mib:,.0f} |")


if __name__ == "__main__":
    measure(Path(sys.argv[1]), Path(sys.argv[2]))

"""A clock that jumps, and a disk that fills up."""

import os
import shutil
import subprocess
from pathlib import Path

from .trial import Trial

# The wall clock, by both names that the driver reads it by, is a day ahead at one look and a day
# behind at the next. Each look leaves a letter in the file that the first argument names.
_JUMPING = """
import datetime, itertools, sys, time
import vila2data.recaption.runlog as runlog
told, real, days = sys.argv.pop(1), time.time, itertools.cycle([1, -1])
def jumping():
    with open(told, "a") as file:
        file.write("x")
    return real() + 86400.0 * next(days)
class Jumping(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.datetime.fromtimestamp(jumping(), tz)
time.time = jumping
runlog.datetime = Jumping
from vila2data.__main__ import main
main()
"""


def clock_jumps(trial: Trial) -> None:
    told = trial.folder / "looks"
    told.touch()
    code = ("-c", _JUMPING, str(told))
    trial.kill_command(trial.start(code=code), "driver")
    trial.until_done(code=code)
    if looks := told.stat().st_size:
        trial.note(f"clock read {looks} times, a day ahead or behind,")
    else:
        trial.happened.clear()  # a kill alone is another kind


def full_disk(trial: Trial) -> None:
    disk = trial.run
    assert isinstance(disk, Path)
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "vila2data-chaos", str(disk)]
    subprocess.run(mount, check=True)
    try:
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        filler = disk / "filler"
        filler.write_bytes(b"\0" * (free - trial.random.randrange(0, 160_000)))
        process = trial.start()
        said = trial.end_of(process)
        if process.returncode != 0:
            assert process.returncode == 1, said
            assert "no space left" in said
            trial.note("disk full")
        filler.unlink()
        trial.until_done()
        kept = trial.folder / "kept"
        shutil.copytree(disk, kept)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
    disk.rmdir()
    kept.rename(disk)

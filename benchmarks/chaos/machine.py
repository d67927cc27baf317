"""A clock that jumps, and a disk that fills up."""

import os
import shutil
import subprocess

from .trial import Trial

# The wall clock, by both names that the driver reads it by, jumps by a day at each look. Which ways
# it jumped is left in the folder that the first argument names.
_JUMPING = """
import datetime, random, sys, time
from pathlib import Path
import vila2data.recaption.runlog as runlog
told, real = Path(sys.argv.pop(1)), time.time
def jumping():
    days = random.choice([-1, 0, 1])
    (told / f"jumped-{days}").touch()
    return real() + 86400.0 * days
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
    code = ("-c", _JUMPING, str(trial.folder))
    trial.kill_command(trial.start(code=code), "driver")
    trial.until_done(code=code)
    if all((trial.folder / f"jumped-{days}").exists() for days in (-1, 1)):
        trial.note("clock jumped, both ways,")


def full_disk(trial: Trial) -> None:
    disk = trial.run
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

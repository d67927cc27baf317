"""Trouble on purpose: ``python -m benchmarks.chaos [--times 5]``. Runs are killed, starved and
doubled at random points, then given again until they are done; each must end with the build of an
undisturbed run, byte for byte, and hold each sample once.

    kinds.py      the table of what is done to a run: a new kind is a function of a ``Trial`` there
    trial.py      one run, its starts, and what happened to it
    servers.py    where its captions come from: texts that follow from the request alone
    processes.py  whom to kill: of all processes of the machine, those that we started
    verdict.py    whether a build is the right one

Linux only; full disks need the right to mount a tmpfs.
"""

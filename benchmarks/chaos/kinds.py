"""What is done to a run, by name. A new kind is one function, which starts the run, notes what
happened where it really did, and returns when the run is done; and one line of ``KINDS``.
"""

from collections.abc import Callable, Mapping
from functools import partial

from .company import parts, two_drivers
from .kills import kill_all_servers, kill_driver, kill_server, kill_worker
from .machine import clock_jumps, full_disk
from .on_ray import kill_actor, kill_node, mixture
from .on_storage import failing_storage, storage_down, two_drivers_on_storage, uploads_cut
from .trial import Trial

KINDS: Mapping[str, Callable[[Trial], None]] = {
    "driver killed, twice": partial(kill_driver, workers=1),
    "driver with two workers killed, twice": partial(kill_driver, workers=2),
    "worker killed": kill_worker,
    "one of two servers killed": kill_server,
    "all servers killed": kill_all_servers,
    "two drivers on one run": two_drivers,
    "four commands with parts, two killed": parts,
    "wall clock jumps by days, driver killed": clock_jumps,
    "disk full": full_disk,
    "Ray actor killed": kill_actor,
    "raylet of a Ray node killed": partial(kill_node, whole=False),
    "Ray node killed, all its processes": partial(kill_node, whole=True),
    "driver, part and workers killed in turn, Ray ends it": mixture,
    "S3 storage fails a tenth of the requests": failing_storage,
    "S3 uploads cut or refused, driver killed": uploads_cut,
    "S3 storage down": storage_down,
    "two drivers on one run on S3": two_drivers_on_storage,
}

"""A Ray cluster of several nodes on this machine, each a raylet of its own, whose nodes come and go."""

import contextlib
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PATIENCE = 300.0  # seconds for a node to start, on a busy machine: Ray itself gives it 30
STORE_BYTES = 80 * 2**20  # Ray takes no less than 75 MiB


class RayNodes:
    """A head without workers, and nodes of one worker each."""

    def __init__(self, folder: Path, count: int) -> None:
        # Before Ray is imported. Its workers would be nicer than all else on a busy machine, and starve.
        os.environ |= {"RAY_TMPDIR": str(folder), "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
        from ray._private import services  # an extra: not everybody has it
        from ray.cluster_utils import Cluster

        get_node = services.get_node

        def patient(*words: Any) -> Any:
            """Ray asks for a new node once more until its 30 seconds are over, and calls it failed then."""
            ends = time.monotonic() + PATIENCE
            while True:
                try:
                    return get_node(*words)
                except RuntimeError:  # it is not known yet, or the head has no time to answer
                    if time.monotonic() > ends:
                        raise
                time.sleep(0.1)

        services.get_node = patient
        self.folder = folder
        few = {"object_store_memory": STORE_BYTES, "include_dashboard": False}
        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **few})
        self._nodes = [self._add() for _ in range(count)]

    @property
    def address(self) -> str:
        """For --address."""
        return self._cluster.address

    def replace(self, place: int) -> None:
        """End a node with `kill -9`, whatever runs on it, and start another one in its place."""
        self._cluster.remove_node(self._nodes[place], allow_graceful=False)
        self._nodes[place] = self._add()

    def _add(self):
        return self._cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)

    def processes(self, title: str = "") -> dict[int, str]:
        """The cluster's processes, by their number, whose command line begins with `title`."""
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it is somebody else's, or has ended
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                # Of Ray's workers the title takes the place of all that told whose they are, but for where they write.
                if str(self.folder) in str((process / "fd" / "1").readlink()) and command.startswith(title):
                    found[int(process.name)] = command
        return found

    def shutdown(self) -> None:
        """End all nodes."""
        self._cluster.shutdown()


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raises TimeoutError in a block that takes longer, in whichever call of Ray it waits. For the main thread."""

    def late(*_: object) -> None:
        raise TimeoutError(f"took more than {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def ray_nodes(count: int) -> Iterator[RayNodes]:
    """A cluster for as long as the block runs; its folder has a short name, since sockets lie in it."""
    with tempfile.TemporaryDirectory(prefix="ray_", ignore_cleanup_errors=True) as folder:
        nodes = RayNodes(Path(folder), count)
        try:
            yield nodes
        finally:
            nodes.shutdown()

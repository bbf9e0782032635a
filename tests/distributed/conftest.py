"""One Ray cluster of two machines, both of them this one, for all tests that need a cluster."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import pytest
from blissaudit.distributed.cluster import import_ray


class TwoMachines:
    """A cluster whose second machine can be lost and replaced."""

    def __init__(self) -> None:
        self.ray = import_ray()
        from ray.cluster_utils import Cluster

        machine = {"num_cpus": 3, "object_store_memory": 128 << 20, "include_dashboard": False}
        # A machine that is killed is missed after half a second, not after half a minute.
        seen = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500}
        settings = {**seen, "health_check_timeout_ms": 5000, "health_check_failure_threshold": 3}
        self.cluster = Cluster(True, head_node_args={**machine, "_system_config": settings})
        del machine["include_dashboard"]
        self.machine = machine
        self.second: Any = None
        self.add()
        self.ray.init(self.cluster.address, log_to_driver=False, logging_level=logging.CRITICAL)

    def add(self) -> None:
        """Add the second machine where it is lost."""
        if self.second is None:
            self.second = self.cluster.add_node(**self.machine)

    def kill(self) -> None:
        """End the second machine with all its processes, at once."""
        self.cluster.remove_node(self.second, allow_graceful=False)
        self.second = None

    @property
    def raylet(self) -> int:
        """The id of the process that manages the second machine."""
        return int(self.second.all_processes["raylet"][0].process.pid)

    def end(self) -> None:
        self.ray.shutdown()
        self.cluster.shutdown()


@pytest.fixture(scope="session")
def running(bliss: Callable) -> Iterator[TwoMachines]:
    """The cluster, to which this process is connected."""
    if find_spec("ray") is None:  # not imported: what it reads while it is must be set before
        pytest.skip("Ray is not installed: pip install 'bliss-audit[ray]'")
    made = TwoMachines()
    yield made
    made.end()

"""One Ray cluster of two machines, both of them this one, for all tests that need a cluster."""

from __future__ import annotations

import contextlib
import logging
import time
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
        # A machine that is killed is missed after seconds, not after half a minute; one that only
        # answers late, on a busy machine, is not.
        seen = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500}
        settings = {**seen, "health_check_timeout_ms": 30_000, "health_check_failure_threshold": 3}
        # A process that has imported torch for one test serves the next; none starts unasked.
        settings |= {"idle_worker_killing_time_threshold_ms": 120_000}
        settings |= {"prestart_worker_first_driver": False}
        settings |= {"worker_niceness": 0}  # the other tests run beside them
        self.cluster = Cluster(True, head_node_args={**machine, "_system_config": settings})
        del machine["include_dashboard"]
        self.machine = machine
        self.second: Any = None
        self.ray.init(self.cluster.address, log_to_driver=False, logging_level=logging.CRITICAL)
        self.add()

    def add(self) -> None:
        """Add the second machine where it is lost, and wait until actors can start there."""
        if self.second is not None:
            return
        self.second = self.cluster.add_node(**self.machine)
        affinity = self.ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        place = affinity(self.second.node_id, soft=False)
        there = self.ray.remote(num_cpus=0)(lambda: None).options(scheduling_strategy=place)
        for _ in range(30):
            with contextlib.suppress(self.ray.exceptions.TaskUnschedulableError):
                self.ray.get(there.remote())
                return
            time.sleep(0.3)

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

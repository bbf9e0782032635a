"""A Ray cluster for one command, found or started; the only file that imports ray."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..errors import BlissError, UsageError
from ..indexer.encode.encoder import ModelChoice

OBJECT_STORE_BYTES = 1 << 30
"""Most that may lie between the stages of a cluster of our own."""
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on every system: a cluster of our own on loopback
    "RAY_DATA_LOG_LEVEL": "CRITICAL",
}
AUTHENTICATION = {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}
CONNECT_SECONDS = 10.0


@dataclass(frozen=True)
class RayEngine:
    """Where to encode with Ray, and the model that its workers load."""

    choice: ModelChoice
    address: str | None = None
    """Of a running cluster, host:port or `auto`; None: one of our own, ended afterwards."""
    actors: int | None = None
    """How many encoders; default one for each GPU of the cluster, without any 1."""

    def __post_init__(self) -> None:
        if self.actors is not None and self.actors < 1:
            raise UsageError(
                f"{self.actors} Ray actors were asked for", "1 or more", "Ask for more"
            )
        if self.address is not None and self.address.startswith("ray://"):
            raise UsageError(
                f"the Ray client address {self.address} was given",
                "host:port of a cluster this machine belongs to, or auto",
                "Run bliss on a machine of the cluster, as `ray job submit` does",
            )


def import_ray(engine: RayEngine) -> Any:
    """The module; what it reads from the environment while it is imported is set before.

    A token of this process keeps other users of the machine out of a cluster of our own; Ray by
    itself would leave one in the home folder.
    """
    if "ray" not in sys.modules:
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        if engine.address is None and not AUTHENTICATION & set(os.environ):
            os.environ["RAY_AUTH_MODE"] = "token"
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UsageError(
            f"--engine ray was given and Ray cannot be imported ({error})",
            "the extra [ray]",
            "pip install 'bliss-audit[ray]', or leave --engine out",
        ) from error
    return ray


@contextlib.contextmanager
def cluster(ray: Any, engine: RayEngine) -> Iterator[None]:
    """A cluster for the time being: the one this process is in, the one asked for, or our own."""
    if ray.is_initialized():
        yield
        return
    with contextlib.ExitStack() as ending:
        ending.enter_context(_no_messages_on_stdout(ray))
        if engine.address is not None:
            _connect(ray, engine.address)
        else:
            folder = ending.enter_context(
                tempfile.TemporaryDirectory(prefix="bliss-ray-", ignore_cleanup_errors=True)
            )
            _start(ray, folder, engine)
        ending.callback(ray.shutdown)
        yield


def _connect(ray: Any, address: str) -> None:
    needed = "host:port of a Ray cluster that this machine belongs to, or auto"
    remedy = "Correct --ray-address, or leave it out to start Ray on this machine"
    host, _, port = address.rpartition(":")
    try:
        if host and port.isdigit():  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
        _init(ray, address=address)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise BlissError(f"no Ray cluster at {address} ({reason})", needed, remedy) from error


def _start(ray: Any, folder: str, engine: RayEngine) -> None:
    """A cluster of this machine alone: no dashboard, reachable from this machine only."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        _init(
            ray,
            num_cpus=(cores or 1) + 1 + (engine.actors or 1),
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            _temp_dir=folder,
        )
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise BlissError(
            f"Ray could not be started on this machine ({reason})",
            "memory, processes and a temporary folder for it",
            "Leave --engine out, or name a running cluster with --ray-address",
        ) from error


def _init(ray: Any, **settings: Any) -> None:
    """`ray.init`, without the line on stderr that its log level was set."""
    sys.stderr.flush()
    before = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        ray.init(log_to_driver=False, logging_level=logging.CRITICAL, **settings)
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(nowhere)


@contextlib.contextmanager
def _no_messages_on_stdout(ray: Any) -> Iterator[None]:
    """Ray tells of workers that died on stdout, where a command prints its result as JSON."""
    worker = ray._private.worker
    print_to_stdstream = getattr(worker, "print_to_stdstream", None)
    worker.print_to_stdstream = lambda *args, **kwargs: None
    try:
        yield
    finally:
        worker.print_to_stdstream = print_to_stdstream

"""A Ray cluster for one command, found or started; the only file that imports ray."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import BlissError, UsageError
from .encoding import ModelChoice

OBJECT_STORE_BYTES = 1 << 30
"""Most that may lie between the stages of a cluster of our own."""
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on every system: a cluster of our own on loopback
    "RAY_DATA_LOG_LEVEL": "CRITICAL",
}
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


def import_ray() -> Any:
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
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
    quiet = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    with contextlib.ExitStack() as ending:
        ending.enter_context(_no_messages_on_stdout(ray))
        if engine.address is not None:
            _connect(ray, engine.address, quiet)
        else:
            folder = ending.enter_context(
                tempfile.TemporaryDirectory(prefix="bliss-ray-", ignore_cleanup_errors=True)
            )
            _start(ray, folder, engine, quiet)
        ending.callback(ray.shutdown)
        yield


def _connect(ray: Any, address: str, quiet: Mapping[str, Any]) -> None:
    needed = "host:port of a Ray cluster that this machine belongs to, or auto"
    remedy = "Correct --ray-address, or leave it out to start Ray on this machine"
    host, _, port = address.rpartition(":")
    try:
        if host and port.isdigit():  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
        ray.init(address=address, **quiet)
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise BlissError(f"no Ray cluster at {address} ({reason})", needed, remedy) from error


def _start(ray: Any, folder: str, engine: RayEngine, quiet: Mapping[str, Any]) -> None:
    """A cluster of this machine alone: no dashboard, reachable from this machine only.

    A token of this process keeps other users of the machine out; Ray would leave one in the home.
    """
    if not {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ):
        os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN"] = "token", secrets.token_hex(32)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        ray.init(
            num_cpus=(cores or 1) + 1 + (engine.actors or 1),
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            _temp_dir=folder,
            **quiet,
        )
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise BlissError(
            f"Ray could not be started on this machine ({reason})",
            "memory, processes and a temporary folder for it",
            "Leave --engine out, or name a running cluster with --ray-address",
        ) from error


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

"""A Ray cluster for one command, connected to or started; the only module that imports ray."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from ..errors import BlissError, UsageError

OBJECT_STORE_BYTES = 1 << 30
"""Object store of a local cluster: the most that may wait between the stages."""
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # a local cluster on loopback on every system
    "RAY_DATA_LOG_LEVEL": "CRITICAL",
}
AUTHENTICATION = {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}
CONNECT_SECONDS = 10.0


def import_ray(address: str | None = None) -> Any:
    """The module `ray`, imported with the environment variables that it reads while loading.

    Without an address, a token of this process keeps other users of the machine out of the local
    cluster; Ray itself would leave one in the home folder. Raises UsageError without Ray.
    """
    if "ray" not in sys.modules:
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        if address is None and not AUTHENTICATION & set(os.environ):
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
def cluster(ray: Any, address: str | None = None, actors: int | None = None) -> Iterator[None]:
    """A cluster for the block: the one this process is in, the one at `address`, or a local one.

    Raises BlissError where there is none at `address` or a local one for `actors` cannot start.
    """
    if ray.is_initialized():
        yield
        return
    with contextlib.ExitStack() as ending:
        ending.enter_context(_no_messages_on_stdout(ray))
        if address is not None:
            _connect(ray, address)
        else:
            folder = ending.enter_context(
                tempfile.TemporaryDirectory(prefix="bliss-ray-", ignore_cleanup_errors=True)
            )
            _start(ray, folder, actors or 1)
        ending.callback(ray.shutdown)
        yield


def _connect(ray: Any, address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        if host and port.isdigit():  # Ray itself would retry for minutes
            socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
        _init(ray, address=address)
    except Exception as error:
        raise BlissError(
            f"no Ray cluster at {address} ({_first_line(error)})",
            "host:port of a Ray cluster that this machine belongs to, or auto",
            "Correct the address in --engine ray:ADDRESS, or leave it out to start Ray here",
        ) from error


def _start(ray: Any, folder: str, actors: int) -> None:
    """A cluster of this machine alone, without a dashboard, reachable from this machine only."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        _init(
            ray,
            num_cpus=(cores or 1) + 1 + actors,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            _temp_dir=folder,
        )
    except Exception as error:
        raise BlissError(
            f"Ray could not be started on this machine ({_first_line(error)})",
            "memory, processes and a temporary folder for it",
            "Leave --engine out, or name a running cluster with --engine ray:ADDRESS",
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def _init(ray: Any, **settings: Any) -> None:
    """`ray.init` without the line that it prints to stderr about its log level."""
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
    """Ray reports workers that died on stdout, where a command prints its result as JSON."""
    worker = ray._private.worker
    print_to_stdstream = getattr(worker, "print_to_stdstream", None)
    worker.print_to_stdstream = lambda *args, **kwargs: None
    try:
        yield
    finally:
        worker.print_to_stdstream = print_to_stdstream

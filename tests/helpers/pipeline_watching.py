"""Pipelines of captions watched from outside: their processes, their threads and their source."""

import threading
import time

import psutil


def children():
    """Processes this one started that live."""
    return [each for each in psutil.Process().children(recursive=True) if lives(each)]


def lives(process):
    """Whether a process is there and not only waited for; it may end while it is looked at."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def daemons():
    """The threads that a pipeline may have left."""
    return {thread for thread in threading.enumerate() if thread.daemon}


def unending(chunks, seen=None):
    """The chunks again and again without end; says in `seen` when it is closed."""
    try:
        while True:
            yield from chunks
    finally:
        if seen is not None:
            seen.append("closed")


def one_that_tokenises(rows):
    """Take rows until there is a process; that process."""
    for _ in rows:
        if found := children():
            return found[0]
        time.sleep(0.02)
    raise AssertionError("no process was started")

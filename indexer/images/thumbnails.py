"""Thumbnails, made by a worker process: no image of a collection is decoded in this one."""

from __future__ import annotations

import subprocess
import threading
from types import TracebackType

from ..encode.preprocessing import UnreadableImage
from .decode_worker import thumbnail_request
from .decoding import DecodingLimits
from .frames import cause_of_death
from .workers import Processes, end_process, exchange_in_time, kill_all, start_process, watch


class Thumbnailer:
    """Makes thumbnails in one worker process, which is started when first needed."""

    def __init__(self, limits: DecodingLimits) -> None:
        self._limits = limits
        self._pool = Processes()
        self._process: subprocess.Popen[bytes] | None = None
        self._watch: threading.Thread | None = None

    def __enter__(self) -> Thumbnailer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        kill_all(self._pool)
        if self._process is not None:
            end_process(self._process, self._pool)
        if self._watch is not None:
            self._watch.join()

    def thumbnail(self, data: bytes, side: int) -> bytes:
        """A WebP no larger than `side` x `side` of an image file's bytes, turned upright.

        Only pixels are in it: no EXIF, GPS, colour profile or comment. Raises UnreadableImage;
        BlissError where no worker process can be started.
        """
        if self._watch is None:
            self._watch = threading.Thread(target=watch, args=(self._pool,), daemon=True)
            self._watch.start()
        process = self._process = self._process or start_process(self._pool)
        request = thumbnail_request(data, side, self._limits)
        frame, expired = exchange_in_time(process, request, self._limits.seconds, self._pool)
        reason = ""
        if expired:
            reason = f"decoding took longer than {self._limits.seconds:g} s"
        elif frame is None:
            reason = f"the decoder process died ({cause_of_death(process)})"
        if expired or frame is None:
            end_process(process, self._pool)
            self._process = None
            raise UnreadableImage(reason)
        header, picture = frame
        if "reason" in header:
            raise UnreadableImage(str(header["reason"]))
        return bytes(picture)

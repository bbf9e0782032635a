"""The process that tokenises captions, `python -m blissaudit.indexer.encode.tokenise_worker`.

The first request brings the recipe of the tokenizer and is answered when the tokenizer is made.
Each other one is a JSON list of texts as payload; the answer is int32 [n, l], every row up to the
longest, the shape in its header. It ends when stdin does, and so with its parent.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from ..images.frames import Frame, frame_bytes, read_frame
from .tokens import TokenizerRecipe


def recipe_request(recipe: TokenizerRecipe) -> bytes:
    """The first frame for a new process."""
    return frame_bytes(asdict(recipe))


def texts_request(texts: Sequence[str]) -> bytes:
    """The frame that asks for the ids of texts; JSON keeps even what UTF-8 has no bytes for."""
    return frame_bytes({}, json.dumps(list(texts)).encode("ascii"))


def ids_answered(frame: Frame) -> np.ndarray | None:
    """int32 [n, l], or None where the texts could not be tokenised."""
    header, payload = frame
    if "shape" not in header:
        return None
    return np.frombuffer(payload, np.int32).reshape(header["shape"])


def main() -> None:
    """Answer requests until stdin ends. Ctrl-C is left to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one process a core is parallel enough
    requests = sys.stdin.buffer
    responses = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    first = read_frame(requests)
    if first is None:
        return
    from .tokens import tokeniser_for

    tokenise = tokeniser_for(TokenizerRecipe(**first[0]))
    responses.write(frame_bytes({"ready": True}))
    responses.flush()
    while (request := read_frame(requests)) is not None:
        texts = json.loads(request[1].decode("ascii"))
        try:
            ids = tokenise(texts)
        except Exception as error:
            responses.write(frame_bytes({"error": type(error).__name__}))
        else:
            used = np.flatnonzero(ids.any(axis=0))
            cut = np.ascontiguousarray(ids[:, : used[-1] + 1 if len(used) else 0], np.int32)
            responses.write(frame_bytes({"shape": cut.shape}, cut.tobytes()))
        responses.flush()


if __name__ == "__main__":
    main()

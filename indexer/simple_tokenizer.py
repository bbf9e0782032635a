"""open_clip's SimpleTokenizer: recognised, described so that another process can make it, and made.

`open_clip/tokenizer.py` needs torch only to wrap its result. Imported as part of its package it
takes 3.3 s and 940 MB; loaded from its file alone, with an empty module in torch's place while it
loads, 0.35 s and 86 MB (open_clip 3.3, torch 2.14, one core). Its ids are the same: its code is.
"""

from __future__ import annotations

import importlib.util
import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

CLEANINGS = ("lower", "canonicalize", "whitespace")
MODULE = "open_clip.tokenizer"
CACHED_WORDS = 200_000
"""Words whose tokens are remembered; open_clip itself remembers every word it ever met."""


@dataclass(frozen=True)
class TokenizerRecipe:
    """What the ids of a SimpleTokenizer with open_clip's own vocabulary depend on."""

    context_length: int
    cleaning: str
    """One of CLEANINGS."""
    fast: bool = False
    """Whether `tokenizers` reads the texts for which its ids are the same (see fast_tokens)."""


def recipe_of(tokenizer: Any) -> TokenizerRecipe | None:
    """How to make a tokenizer with the ids of this one; None where it is of another kind.

    Everything that a fresh SimpleTokenizer holds is compared: vocabulary, merges, pattern, special
    tokens. One that drops words at random, has tokens of its own or was changed has no recipe.
    """
    module = sys.modules.get(MODULE)
    if module is None or type(tokenizer) is not module.SimpleTokenizer:
        return None
    named = [name for name in CLEANINGS if module.get_clean_fn(name) is tokenizer.clean_fn]
    if not named or not isinstance(tokenizer.context_length, int):
        return None
    fresh = _fresh(module.SimpleTokenizer, tokenizer.context_length, named[0])  # type: ignore[arg-type]
    return TokenizerRecipe(fresh.context_length, named[0]) if _same(tokenizer, fresh) else None


@lru_cache(maxsize=4)
def _fresh(make: Any, context_length: int, clean: str) -> Any:
    """A tokenizer to compare with, and for nothing else: it is made once."""
    return make(context_length=context_length, clean=clean)


def _same(one: Any, other: Any) -> bool:
    """Whether two tokenizers hold the same, but for the words they remember."""
    mine, theirs = ({**vars(each), "cache": None} for each in (one, other))
    mine["pat"], theirs["pat"] = ((p.pattern, p.flags) for p in (mine["pat"], theirs["pat"]))
    return mine == theirs


def make_tokenizer(recipe: TokenizerRecipe) -> Any:
    """A SimpleTokenizer of open_clip's, without importing torch where that is possible."""
    module = sys.modules.get(MODULE) or _module_alone()
    return module.SimpleTokenizer(context_length=recipe.context_length, clean=recipe.cleaning)


def _module_alone() -> Any:
    """`open_clip.tokenizer` from its file, or from its package where it has come to need torch."""
    package = importlib.util.find_spec("open_clip")
    assert package is not None and package.origin is not None
    file = Path(package.origin).with_name("tokenizer.py")
    spec = importlib.util.spec_from_file_location("open_clip_tokenizer_alone", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    absent = "torch" not in sys.modules
    if absent:
        sys.modules["torch"] = _empty_torch()
    try:
        spec.loader.exec_module(module)
    except (AttributeError, ImportError):
        sys.modules.pop("torch", None)
        return importlib.import_module(MODULE)
    finally:
        if absent and getattr(sys.modules.get("torch"), "empty_stand_in", False):
            del sys.modules["torch"]
    return module


def _empty_torch() -> ModuleType:
    """Names that annotations in the file mention; nothing of it is ever called."""
    stand_in = ModuleType("torch")
    vars(stand_in).update(Tensor=object, LongTensor=object, empty_stand_in=True)
    return stand_in


def forget_words(tokenizer: Any) -> None:
    """Keep the memory of a long build bounded: past CACHED_WORDS, start remembering again."""
    if len(tokenizer.cache) > CACHED_WORDS:
        specials = (tokenizer.decoder[number] for number in tokenizer.all_special_ids)
        tokenizer.cache = {token: token for token in specials}


def token_rows(ids: Sequence[Sequence[int]], ends: tuple[int, int], length: int) -> np.ndarray:
    """int64 [n, length]: start, the ids of each text cut to fit, end, then zeros.

    `ends` are the ids of start-of-text and end-of-text.
    """
    room = length - 2
    counts = np.fromiter((min(len(row), room) for row in ids), np.int64, len(ids))
    flat = itertools.chain.from_iterable(row[:room] for row in ids)
    rows = np.zeros((len(ids), length), np.int64)
    inner = rows[:, 1:-1]
    inner[np.arange(room) < counts[:, None]] = np.fromiter(flat, np.int64, int(counts.sum()))
    rows[:, 0] = ends[0]
    rows[np.arange(len(ids)), counts + 1] = ends[1]
    return rows

"""Texts to token ids: one function for any tokenizer of open_clip's, in this process.

Its own SimpleTokenizer is driven by its parts, which is faster and gives the same ids; where
`tokenizers` is installed, Rust reads the plain texts (`fast_tokens`). Any other tokenizer (Hugging
Face's, SigLIP's, a changed one) is called as it is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import numpy as np

from .fast_tokens import FastIds, fast_ids, is_plain
from .simple_tokenizer import (
    TokenizerRecipe,
    forget_words,
    make_tokenizer,
    recipe_of,
    token_rows,
)

Tokenise = Callable[[Sequence[str]], np.ndarray]
"""n texts -> ids [n, L], L the context length."""


def tokeniser_of(tokenizer: Any) -> tuple[Tokenise, TokenizerRecipe | None]:
    """How to tokenise as this open_clip tokenizer does, and how another process can do the same."""
    recipe = recipe_of(tokenizer)
    if recipe is not None:
        return _simple(tokenizer, recipe)
    length = int(tokenizer(["a"]).shape[1])

    def as_it_is(texts: Sequence[str]) -> np.ndarray:
        if not len(texts):
            return np.zeros((0, length), np.int64)
        return np.asarray(tokenizer(list(texts)))

    return as_it_is, None


def cut_by(
    tokenizer: Any, recipe: TokenizerRecipe | None, length: int
) -> Callable[[Sequence[str]], np.ndarray] | None:
    """Which texts have more than `length` tokens; None for tokenizers that do not tell.

    Each token is a byte at least: texts with fewer bytes than tokens fit, and are not tokenised,
    but for those that cleaning may lengthen.
    """
    if recipe is None:
        return None

    def is_cut(texts: Sequence[str]) -> np.ndarray:
        forget_words(tokenizer)
        return np.array(
            [
                (len(text) > length - 2 or not text.isascii())
                and len(tokenizer.encode(text)) > length - 2
                for text in texts
            ],
            bool,
        )

    return is_cut


def tokeniser_for(recipe: TokenizerRecipe) -> Tokenise:
    """The tokeniser a recipe describes, made anew."""
    return _simple(make_tokenizer(recipe), recipe, use_rust=recipe.fast)[0]


@lru_cache(maxsize=4)
def _rust_of(recipe: TokenizerRecipe, make: Callable[[Any], FastIds | None]) -> FastIds | None:
    """`make` of a tokenizer of this recipe, once: it takes a quarter of a second."""
    return make(make_tokenizer(recipe))


def _simple(
    tokenizer: Any, recipe: TokenizerRecipe, use_rust: bool = True
) -> tuple[Tokenise, TokenizerRecipe]:
    rust = None
    if use_rust and recipe.cleaning == "lower" and find_spec("tokenizers") is not None:
        rust = _rust_of(replace(recipe, context_length=1), fast_ids)
    ends = (tokenizer.sot_token_id, tokenizer.eot_token_id)
    one_at_a_time = threading.Lock()  # the words it remembers may be forgotten between two looks

    def tokenise(texts: Sequence[str]) -> np.ndarray:
        plain = [rust is not None and is_plain(text) for text in texts]
        quick: list[list[int]] = []
        if rust is not None:
            quick = rust([text for text, yes in zip(texts, plain, strict=True) if yes])
        with one_at_a_time:
            forget_words(tokenizer)
            following = iter(quick)
            ids = [
                next(following) if yes else tokenizer.encode(text)
                for text, yes in zip(texts, plain, strict=True)
            ]
        return token_rows(ids, ends, recipe.context_length)

    return tokenise, replace(recipe, fast=rust is not None)

"""Texts to token ids, as fast as open_clip's tokenizers allow, with their exact ids.

open_clip's SimpleTokenizer spends most of its time on cleaning that changes nothing in most
captions. The Rust package `tokenizers` is given its vocabulary and merges, and only *plain* texts:
printable ASCII (space to tilde) without `&` and `<`. All other texts, and all tokenizers of another
kind (Hugging Face's, SigLIP's, a changed one), go through the tokenizer itself. For a plain text t
and the cleaning "lower" the ids are the same, step by step:

1. `ftfy.fix_text(t) == t`. It replaces HTML entities (each begins with `&`), decodes mojibake and
   C1 controls, ligatures, wide characters, curled quotes, unusual line ends and surrogates (all
   outside ASCII, or the control characters CR and ESC), removes control characters, and
   composes to NFC (ASCII is composed). Texts over a million characters are only cut and joined.
2. `html.unescape(t) == t`, twice: it returns a text without `&` unchanged.
3. `strip`, `split` and `join` change nothing but runs of spaces. No alternative of the pattern
   matches a space, so runs and ends of spaces only separate matches, however long they are.
4. `lower` is the same call here. Lower-cased ASCII is ASCII.
5. The pattern's first alternatives, the special tokens, need `<`. On lower-case ASCII the others
   are 's 't 're 've 'm 'll 'd, letters a-z, one digit, and a run of neither; IGNORECASE adds
   nothing. Both engines take the leftmost match, in it the first alternative that fits, and greedy
   runs: `re.findall` and Rust's split into matches give the same pieces.
6. Each character of a piece is one byte from ! to ~, which the byte table maps to itself.
7. Byte pairs: Python joins every occurrence of the pair of lowest rank from left to right, then
   looks again; Rust joins one occurrence at a time, that of lowest rank, of equals the leftmost.
   They differ only if joining a pair of rank r gives rise to a pair of rank below r. Such a pair
   holds the token just made. `merges_in_order` checks before use that each token is made by one
   merge only and that each merge comes after those that make its halves: so that token was made
   by the merge r, and whatever joins it further has a rank above r.
8. The last character of a piece carries `</w>` in both. Start, end and cutting to the context
   length are done by `token_rows` for both.

Before use, both are compared on `TRIALS`; where they differ the Rust one is not used.
"""

from __future__ import annotations

import itertools
import json
import os
import string
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ...artefacts import home_folder, write_json
from ...errors import BlissError
from .encoder import TokenizerRecipe


def caption_lengths(tokens: np.ndarray, pad: int) -> np.ndarray:
    """int64 [n], tokens before the trailing padding in each row of ids [n, L]."""
    used = tokens != pad
    return np.where(used.any(axis=1), tokens.shape[1] - used[:, ::-1].argmax(axis=1), 1)


def encode_by_length(
    tokens: np.ndarray,
    pad: int | None,
    encode: Callable[[np.ndarray], np.ndarray],
    batch_size: int,
) -> np.ndarray:
    """float32 [n, d] for token ids [n, L], batched by length; with `pad` None at full length.

    `encode` maps ids [b, l] to [b, d]. A batch holds at most `batch_size` captions of full
    length, and proportionally more short ones. Rows are returned in the order of the input.
    """
    n, full = tokens.shape
    lengths = np.full(n, full) if pad is None else caption_lengths(tokens, pad)
    order = np.argsort(lengths, kind="stable")
    out: np.ndarray | None = None
    start = 0
    while start < n:
        room = max(1, batch_size * full // int(lengths[order[start]]))
        ahead = lengths[order[start : start + room]]
        fitting = (np.arange(1, len(ahead) + 1) * ahead <= batch_size * full).sum()
        rows = order[start : start + max(1, int(fitting))]
        longest = int(lengths[rows[-1]])
        vectors = encode(np.ascontiguousarray(tokens[rows, :longest]))
        if out is None:
            out = np.empty((n, vectors.shape[1]), np.float32)
        out[rows] = vectors
        start += len(rows)
    assert out is not None
    return out


def trial_captions(context_length: int) -> list[str]:
    """Captions from one word up to the context length, to compare cut with padded input."""
    words = (
        "a small brown dog runs along the beach with two children and an old man who holds "
        "a red umbrella near some boats while the evening sun goes down behind the harbour wall"
    ).split()
    most = max(1, min(len(words), context_length - 4))
    return [" ".join(words[:count]) for count in range(1, most + 1)]


def recall_truncation(weights: str) -> bool | None:
    """The result that `remember_truncation` stored for these weights, or None."""
    try:
        known = json.loads(_results_file().read_text(encoding="utf-8")).get(weights)
    except (OSError, ValueError, AttributeError):
        return None
    return known if isinstance(known, bool) else None


def remember_truncation(weights: str, exact: bool) -> None:
    """Store the result; where the cache cannot be written, it is measured again next time."""
    try:
        known = json.loads(_results_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    try:
        write_json(_results_file(), {**known, weights: exact})
    except BlissError:
        pass


def cache_folder() -> Path:
    """The folder for what can be measured or computed again."""
    given, cache = os.environ.get("BLISS_CACHE"), os.environ.get("XDG_CACHE_HOME")
    return Path(given) if given else Path(cache or home_folder(".cache")) / "bliss-audit"


def _results_file() -> Path:
    return cache_folder() / "short_captions.json"


Tokenise = Callable[[Sequence[str]], np.ndarray]
"""n texts -> ids [n, L], L the context length."""
FastIds = Callable[[Sequence[str]], list[list[int]]]
"""Texts -> their ids, without start and end."""

CLEANINGS = ("lower", "canonicalize", "whitespace")
MODULE = "open_clip.tokenizer"
CACHED_WORDS = 200_000
"""Words whose tokens are cached; open_clip itself caches every word it has met."""
WORTH_RUST = 1000
"""From how many texts on the Rust tokenizer, which takes a quarter of a second to make, is used."""
PIECES = r"'s|'t|'re|'ve|'m|'ll|'d|[a-z]+|[0-9]|[^ a-z0-9]+"
"""open_clip's pattern on lower-case printable ASCII."""
TRIALS = (
    *trial_captions(77),
    "",
    " ",
    *string.printable[:94].replace("&", "").replace("<", ""),
    "It's what they've said: we'll go, I'm sure you'd; she isn't, they're 'STILL' there''s 'll",
    "  Two   spaces, 1234567890 digits, 12 3/4, 3d, no_space-at-all, e-mail@example.com/#path  ",
    "aaaaaaaaaaaaaaa aaaa aaa hahahahaha banana mississippi !!!???...--- ((())) $$$ ~~~ `'`",
    "Pneumonoultramicroscopicsilicovolcanoconiosis antidisestablishmentarianism xqzjkvwpfy",
    "the quick brown fox jumps over the lazy dog; THE QUICK BROWN FOX JUMPS OVER THE LAZY DOG",
)
"""Texts on which both tokenizers are compared before the Rust one is used."""


def tokeniser_of(tokenizer: Any) -> tuple[Tokenise, TokenizerRecipe | None]:
    """A function with the ids of an open_clip tokenizer, and a recipe to make it elsewhere.

    The recipe is None for anything but open_clip's unchanged SimpleTokenizer.
    """
    recipe = recipe_of(tokenizer)
    if recipe is not None:
        return simple_tokeniser(tokenizer, recipe), recipe
    length = int(tokenizer(["a"]).shape[1])

    def call(texts: Sequence[str]) -> np.ndarray:
        if not len(texts):
            return np.zeros((0, length), np.int64)
        return np.asarray(tokenizer(list(texts)))

    return call, None


def recipe_of(tokenizer: Any) -> TokenizerRecipe | None:
    """How to make a tokenizer with the ids of this one; None where it is of another kind.

    Everything that a new SimpleTokenizer holds is compared: vocabulary, merges, pattern, special
    tokens. One that drops words at random, has tokens of its own or was changed has no recipe.
    """
    module = sys.modules.get(MODULE)
    if module is None or type(tokenizer) is not module.SimpleTokenizer:
        return None
    named = [name for name in CLEANINGS if module.get_clean_fn(name) is tokenizer.clean_fn]
    if not named or not isinstance(tokenizer.context_length, int):
        return None
    new = _new(type(tokenizer), tokenizer.context_length, named[0])  # type: ignore[arg-type]
    return TokenizerRecipe(new.context_length, named[0]) if _equal(tokenizer, new) else None


@lru_cache(maxsize=4)
def _new(make: Any, context_length: int, clean: str) -> Any:
    """A tokenizer to compare with, and for nothing else: it is made once."""
    return make(context_length=context_length, clean=clean)


def _equal(one: Any, other: Any) -> bool:
    """Whether two tokenizers are equal, but for their caches."""
    mine, theirs = ({**vars(each), "cache": None} for each in (one, other))
    mine["pat"], theirs["pat"] = ((p.pattern, p.flags) for p in (mine["pat"], theirs["pat"]))
    return mine == theirs


def simple_tokeniser(tokenizer: Any, recipe: TokenizerRecipe) -> Tokenise:
    """A function with the ids of a SimpleTokenizer that has this recipe; it may run in threads."""
    ids = _ids_without_ends(tokenizer, recipe)
    ends = (tokenizer.sot_token_id, tokenizer.eot_token_id)

    def tokenise(texts: Sequence[str]) -> np.ndarray:
        return token_rows(ids(texts), ends, recipe.context_length)

    return tokenise


def _ids_without_ends(tokenizer: Any, recipe: TokenizerRecipe) -> FastIds:
    """The ids of any texts, of plain ones from the Rust tokenizer; it may run in threads.

    The Rust tokenizer is made when there are so many texts that it pays.
    """
    kind: Any = type(tokenizer)
    make_fast, seen = fast_ids, 0
    lock = threading.Lock()  # the cache of words may be cleared between two lookups

    def ids(texts: Sequence[str]) -> list[list[int]]:
        nonlocal seen
        seen += len(texts)
        many = seen >= WORTH_RUST and recipe.cleaning == "lower"
        rust = _rust_ids(kind, make_fast) if many else None
        plain = [rust is not None and is_plain(text) for text in texts]
        quick: list[list[int]] = []
        if rust is not None:
            quick = rust([text for text, yes in zip(texts, plain, strict=True) if yes])
        with lock:
            limit_cache(tokenizer)
            following = iter(quick)
            return [
                next(following) if yes else tokenizer.encode(text)
                for text, yes in zip(texts, plain, strict=True)
            ]

    return ids


@lru_cache(maxsize=4)
def _rust_ids(make: Any, fast: Callable[[Any], FastIds | None]) -> FastIds | None:
    """`fast` of a tokenizer with the default vocabulary, once: it takes a quarter of a second."""
    return fast(make())


def cut_by(
    tokenizer: Any, recipe: TokenizerRecipe | None, length: int
) -> Callable[[Sequence[str]], np.ndarray] | None:
    """Which texts have more than `length` tokens; None for tokenizers that do not tell.

    A token is at least one byte: texts with fewer bytes than tokens fit, and are not tokenised,
    except for those that cleaning may lengthen.
    """
    if recipe is None:
        return None
    ids = _ids_without_ends(tokenizer, recipe)

    def is_cut(texts: Sequence[str]) -> np.ndarray:
        cut = np.array([len(text) > length - 2 or not text.isascii() for text in texts], bool)
        doubtful = np.flatnonzero(cut)
        counts = map(len, ids([texts[at] for at in doubtful.tolist()]))
        cut[doubtful] = np.fromiter(counts, np.int64, len(doubtful)) > length - 2
        return cut

    return is_cut


def limit_cache(tokenizer: Any) -> None:
    """Clear the tokenizer's cache of words past CACHED_WORDS, so that memory stays bounded."""
    if len(tokenizer.cache) > CACHED_WORDS:
        specials = (tokenizer.decoder[number] for number in tokenizer.all_special_ids)
        tokenizer.cache = {token: token for token in specials}


def token_rows(ids: Sequence[Sequence[int]], ends: tuple[int, int], length: int) -> np.ndarray:
    """int64 [n, length]: start, the ids of each text truncated to fit, end, then zeros.

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


def is_plain(text: str) -> bool:
    """Whether the ids of the text are proven to be the same from both tokenizers."""
    return text.isascii() and text.isprintable() and "&" not in text and "<" not in text


def merges_in_order(merges: Sequence[tuple[str, str]], vocabulary: Mapping[str, int]) -> bool:
    """Whether each merge makes a token that no other makes, after those that make its halves."""
    made = {first + second: rank for rank, (first, second) in enumerate(merges)}
    single = {token for token in vocabulary if len(token.removesuffix("</w>")) == 1}
    if len(made) != len(merges) or not made.keys() <= vocabulary.keys() - single:
        return False
    return all(
        half in single or made.get(half, rank) < rank
        for rank, pair in enumerate(merges)
        for half in pair
    )


def fast_ids(tokenizer: Any) -> FastIds | None:
    """The ids of a SimpleTokenizer's plain texts from Rust; None where they are not the same.

    The tokenizer must have open_clip's pattern and the cleaning "lower".
    """
    from tokenizers import Regex, Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import Split

    merges = sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.__getitem__)
    if not merges_in_order(merges, tokenizer.encoder):
        return None
    rust = Tokenizer(BPE(vocab=tokenizer.encoder, merges=merges, end_of_word_suffix="</w>"))
    rust.pre_tokenizer = Split(Regex(PIECES), behavior="removed", invert=True)

    def ids(texts: Sequence[str]) -> list[list[int]]:
        lowered = [text.lower() for text in texts]
        found = rust.encode_batch_fast(lowered, add_special_tokens=False)
        return [encoding.ids for encoding in found]

    return ids if ids(TRIALS) == [tokenizer.encode(text) for text in TRIALS] else None

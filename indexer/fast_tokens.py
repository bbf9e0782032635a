"""The ids of open_clip's SimpleTokenizer from Rust, for the texts where they are the same.

Python's tokenizer spends most of its time on cleaning that changes nothing in most captions. The
Rust package `tokenizers` (the extra `[fast]`) is given the Python tokenizer's own vocabulary and
merges, and only *plain* texts: printable ASCII (space to tilde) without `&` and `<`. For a plain
text t and the cleaning "lower" the ids are the same, step by step:

1. `ftfy.fix_text(t) == t`. It replaces HTML entities (each begins with `&`), decodes mojibake and
   C1 controls, ligatures, wide characters, curled quotes, unusual line ends and surrogates (all of
   them outside ASCII, or the control characters CR and ESC), removes control characters, and
   composes to NFC (ASCII is composed). Texts over a million characters are only cut and joined.
2. `html.unescape(t) == t`, twice: it returns a text without `&` as it is.
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
   length are done by `simple_tokenizer.token_rows` for both.

Before use, both are compared on `TRIALS`; where they differ the Rust one is not used.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .encode.text_lengths import trial_captions

PIECES = r"'s|'t|'re|'ve|'m|'ll|'d|[a-z]+|[0-9]|[^ a-z0-9]+"
"""open_clip's pattern on lower-case printable ASCII."""

FastIds = Callable[[Sequence[str]], list[list[int]]]
"""Plain texts -> their ids, without start and end."""

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


def is_plain(text: str) -> bool:
    """Whether the text is of the class for which the ids are proven to be the same."""
    return text.isascii() and text.isprintable() and "&" not in text and "<" not in text


def merges_in_order(merges: Sequence[tuple[str, str]], vocabulary: Mapping[str, int]) -> bool:
    """Whether every merge makes a token no other makes, after those that make its halves."""
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
    """The ids of a SimpleTokenizer's plain texts from Rust, or None.

    None where `tokenizers` is not installed, or where its ids are not the same: see the module.
    The tokenizer has open_clip's pattern and the cleaning "lower"; the caller sees to that.
    """
    try:
        from tokenizers import Regex, Tokenizer
        from tokenizers.models import BPE
        from tokenizers.pre_tokenizers import Split
    except ImportError:
        return None
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

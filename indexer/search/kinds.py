"""Kinds of search: FAISS factory strings, what they hold, and their search parameters.

Only the strings are parsed here; FAISS checks the rest when a structure is built. `SearchChoice` is
how a caller chooses kind, parameters and device; its defaults are those of the index.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from ...errors import UsageError

EXAMPLES = "exact, auto, SQfp16, IVF1024,SQ8, IVF65536_HNSW32,PQ64, HNSW32 or IVF1024,RaBitQ4"
LEAST_PER_LIST = 39
"""Vectors per list below which FAISS's k-means warns of too few training points."""
SAMPLE_PER_LIST = 64
LEAST_SAMPLE = 65_536
"""Vectors that structures are trained on: 64 a list, this many at least, all where fewer."""
CANDIDATES = {
    "Flat": 1, "SQfp16": 1, "SQbf16": 2, "SQ8": 2, "SQ6": 4, "SQ4": 8, "RaBitQ": 32,
}  # fmt: skip
CANDIDATES_OF_CODES = 32
"""Candidates fetched for each of the k, by how vectors are coded; product quantizers: 32."""
GRAPH_BREADTH = 128
MOST = {"candidates": 10_000, "efSearch": 1_000_000, "quantizer_efSearch": 1_000_000}
"""Largest values: beyond them exact search is faster."""
BY_IMAGES = "Images,"
"""Before a kind with lists: its vectors are laid out by a sample of images, see `structures`."""
LINKS = range(2, 513)
"""Neighbours of a vector in a graph: FAISS aborts at 0, and 512 take 4 KiB a vector."""


@dataclass(frozen=True)
class Kind:
    """A parsed factory string."""

    name: str
    lists: int
    """Of an inverted file; 0 without one."""
    links: int
    """Neighbours a vector keeps in a graph (HNSW); 0 without one."""
    coarse_graph: bool
    """Lists are found through a graph of their centres."""
    code: str
    """How a vector is stored: Flat, SQ8, PQ64, RaBitQ4, …"""

    @property
    def by_images(self) -> bool:
        """Whether it is laid out by a sample of images."""
        return self.name.startswith(BY_IMAGES)

    @property
    def factory(self) -> str:
        """The string that FAISS makes it from."""
        return self.name.removeprefix(BY_IMAGES)

    @property
    def knobs(self) -> tuple[str, ...]:
        """The names of its search parameters."""
        names = ["candidates"]
        if self.lists:
            names.append("nprobe")
        if self.coarse_graph:
            names.append("quantizer_efSearch")
        if self.links:
            names.append("efSearch")
        if self.code.startswith("RaBitQ"):
            names.append("qb")
        return tuple(names)


def read_kind(name: str) -> Kind:
    """Parse a factory string; UsageError where it cannot be used here."""
    if not re.fullmatch(r"[A-Za-z0-9_,.()]+", name) or re.search(r"IDMap|LSH|NSG|NNDescent", name):
        raise _unknown(name, "it is none that answers inner products by row")
    if re.search(r"Refine|RFlat", name):
        raise _unknown(name, "hits are ranked again against the stored vectors anyway")
    if re.search(r"IVF\d+.*,P?(RQ|LSQ)[^,]*fs", name):
        raise _unknown(name, "FAISS lets nobody say how many of its lists are searched")
    inverted = re.search(r"(?:^|,)IVF(\d+)(_HNSW\d+)?", name)
    if inverted and not int(inverted[1]):
        raise _unknown(name, "an inverted file without lists holds nothing")
    graph = re.search(r"(?:^|,)HNSW(\d*)", name)
    for links in re.findall(r"HNSW(\d+)", name):
        if int(links) not in LINKS:
            raise _unknown(
                name, f"a graph keeps {LINKS[0]} to {LINKS[-1]} neighbours of each vector"
            )
    if name.startswith(BY_IMAGES) and not inverted:
        raise _unknown(name, "images only help to lay out lists")
    last = name.rsplit(",", 1)[-1]
    code = "Flat" if re.match(r"HNSW|IVF", last) else last
    return Kind(
        name,
        int(inverted[1]) if inverted else 0,
        int(graph[1] or 32) if graph else 0,
        bool(inverted and inverted[2]),
        code,
    )


def check_fit(kind: Kind, count: int, dimension: int) -> None:
    """Raise UsageError where a kind does not fit `count` vectors of `dimension`."""
    if kind.lists > count:
        most = max(1, count // LEAST_PER_LIST)
        raise UsageError(
            f"{kind.name} has {kind.lists:,} lists for {count:,} vectors",
            f"fewer lists than vectors, {most:,} or fewer to be of use",
            f"Ask for IVF{_power(most)},{kind.code}, or for exact search, "
            "which is fast at this size",
        )
    codes = re.match(r"PQ(\d+)", kind.code)
    if codes and "OPQ" not in kind.name and "PCA" not in kind.name and dimension % int(codes[1]):
        fitting = [m for m in range(1, dimension + 1) if not dimension % m]
        near = min(fitting, key=lambda m: (abs(m - int(codes[1])), m))
        raise UsageError(
            f"{kind.name} cuts vectors of {dimension} dimensions into {codes[1]} pieces",
            f"a number of pieces that divides {dimension}",
            f"Ask for {kind.name.replace(codes[0], f'PQ{near}')}",
        )


def default_parameters(kind: Kind) -> dict[str, int]:
    """The search parameters of a kind by default."""
    family = re.match(r"[A-Za-z]+(?:fp16|bf16|\d+)?", kind.code)
    code = family[0] if family else kind.code
    code = "RaBitQ" if code.startswith("RaBitQ") else code
    found = {"candidates": CANDIDATES.get(code, CANDIDATES_OF_CODES)}
    if re.fullmatch(r"RaBitQ[2-9](fs)?", kind.code):
        found["candidates"] = 8
    if kind.lists:
        found["nprobe"] = min(kind.lists, 2 * math.ceil(math.sqrt(kind.lists)))
    if kind.coarse_graph:
        found["quantizer_efSearch"] = 4 * found["nprobe"]
    if kind.links:
        found["efSearch"] = GRAPH_BREADTH
    return found


def check_parameters(kind: Kind, parameters: Mapping[str, object]) -> dict[str, int]:
    """The defaults of a kind updated by `parameters`; UsageError for any that it does not have."""
    found = default_parameters(kind)
    for name, value in parameters.items():
        if name not in kind.knobs:
            raise UsageError(
                f"search parameter '{name}' was given for {kind.name}",
                f"one of {', '.join(kind.knobs)}",
                "Correct its name, or leave it out",
            )
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UsageError(
                f"{name} = {value!r} was given", "a whole number of 1 or more", "Correct it"
            )
        most = kind.lists if name == "nprobe" else 8 if name == "qb" else value
        found[name] = min(value, most)
    return found


def check_limits(kind: Kind, parameters: Mapping[str, int]) -> None:
    """`check_parameters`, and UsageError above MOST; indexes with larger values still open."""
    check_parameters(kind, parameters)
    for name, value in parameters.items():
        if value > MOST.get(name, value):
            raise UsageError(
                f"{name} = {value} was given",
                f"a whole number from 1 to {MOST[name]:,}",
                "Ask for less, or for exact search, which finds every nearest caption",
            )


def sample_size(kind: Kind, count: int) -> int:
    """How many vectors a kind is trained on."""
    return min(count, max(LEAST_SAMPLE, SAMPLE_PER_LIST * kind.lists))


def training_note(kind: Kind, count: int) -> str | None:
    """A note where `count` vectors are few, but not too few, to train a kind on; else None."""
    pieces = re.match(r"(?:PQ|RQ)\d+(?:x(\d+))?", kind.code)
    learnt = max(kind.lists, 2 ** int(pieces[1] or 8) if pieces else 0)
    if not learnt <= count < LEAST_PER_LIST * learnt:
        return None
    return (
        f"note: {kind.name} learns {learnt:,} centroids, for which {LEAST_PER_LIST * learnt:,} "
        f"captions or more are good; there are {count:,}. It works, but may find fewer of the "
        "nearest; exact search is fast at this size"
    )


def bytes_per_vector(kind: Kind, dimension: int) -> int:
    """Size of one vector in a structure, estimated from the kind."""
    size = _code_bytes(kind.code, dimension)
    # An HNSW vector has 2 m links of 4 bytes on the ground floor, and few above it.
    return size + (8 if kind.lists else 0) + (int(8 * kind.links * 1.1) + 16 if kind.links else 0)


def _code_bytes(code: str, dimension: int) -> int:
    bits = {"SQfp16": 16, "SQbf16": 16, "SQ8": 8, "SQ6": 6, "SQ4": 4}
    if code in bits:
        return math.ceil(dimension * bits[code] / 8)
    pieces = re.match(r"PQ(\d+)(?:x(\d+))?", code)
    if pieces:
        return math.ceil(int(pieces[1]) * int(pieces[2] or 8) / 8)
    binary = re.match(r"RaBitQ(\d*)", code)
    if binary:
        return math.ceil(dimension * int(binary[1] or 1) / 8) + 16
    return 4 * dimension


def structure_bytes(kind: Kind, count: int, dimension: int) -> int:
    """Size of a structure, estimated from the kind."""
    matrix = 4 * dimension * dimension if kind.by_images else 0
    return count * bytes_per_vector(kind, dimension) + 4 * kind.lists * dimension + matrix


def lists_for(count: int) -> int:
    """How many lists suit `count` vectors: the power of two nearest to 4 √count."""
    most = max(1, count // LEAST_PER_LIST)
    return min(2 ** round(math.log2(4 * math.sqrt(count))), _power(most))


def candidate_settings(count: int, dimension: int) -> list[tuple[str, dict[str, int]]]:
    """Kinds and parameters worth measuring for `count` vectors, from exact to small."""
    settings: list[tuple[str, dict[str, int]]] = [(EXACT, {})]
    settings += [("SQfp16", {"candidates": 1}), ("SQ8", {"candidates": 2})]
    lists = lists_for(count)
    if lists >= 16:
        probes = sorted({min(lists, 2**power) for power in range(2, 10)})
        pieces = max(m for m in range(1, min(64, dimension) + 1) if not dimension % m)
        kinds = [(f"IVF{lists},SQ8", 2), (f"IVF{lists},RaBitQ4", 8)]
        kinds += [(f"IVF{lists},PQ{pieces}", 32)] if count >= 100_000 else []
        for kind, candidates in (*kinds, (f"{BY_IMAGES}IVF{lists},SQ8", 2)):
            settings += [(kind, {"nprobe": n, "candidates": candidates}) for n in probes]
    if 1_000 <= count <= 300_000:
        settings += [("HNSW32", {"efSearch": breadth}) for breadth in (32, 128, 512)]
    return settings


def _power(number: int) -> int:
    """The largest power of two that is not larger than `number`."""
    return 1 << (max(1, number).bit_length() - 1)


def _unknown(name: str, why: str) -> UsageError:
    return UsageError(
        f"kind of search '{name}' was asked for: {why}", EXAMPLES, "Spell it as FAISS spells it"
    )


EXACT = "exact"


@dataclass(frozen=True)
class SearchChoice:
    """Kind, parameters and device of a search."""

    kind: str | None = None
    """"exact", or the kind the index has; None: the index's own."""
    parameters: Mapping[str, int] | None = None
    """They replace stored parameters of the same name."""
    device: str = "cpu"
    """cpu, cuda (every visible GPU), cuda:1 or cuda:0,1."""
    shards: bool = False
    """Spread the vectors over the GPUs instead of giving each of them all."""

    def __post_init__(self) -> None:
        gpus = gpu_numbers(self.device)
        if self.shards and (gpus is None or len(gpus) == 1):
            raise UsageError(
                f"--search shards was given with device={self.device}",
                "two GPUs or more to spread the vectors over",
                "Leave it out, or name more GPUs: --search device=cuda:0,1,shards",
            )


def gpu_numbers(device: str) -> tuple[int, ...] | None:
    """The GPUs a device names, () for all that are visible; None for the CPU."""
    if device == "cpu":
        return None
    name, colon, numbers = device.partition(":")
    parts = numbers.split(",")
    if name == "cuda" and not colon:
        return ()
    if name == "cuda" and all(part.isascii() and part.isdigit() for part in parts):
        found = tuple(int(part) for part in parts)
        if len(set(found)) == len(found):
            return found
    raise UsageError(
        f"search device '{device}' was given",
        "cpu, cuda, cuda:0 or cuda:0,1",
        "Write --search device=cuda",
    )


DEFAULT_SEARCH = SearchChoice()
"""The search that the index has, on the CPU."""

"""Whether the manifest of a caption index can be right: its types, its counts, its names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .folder import files_of_part, strange_names

DTYPES = ("float16", "float32")


def type_problems(manifest: Mapping[str, Any]) -> list[str]:
    """What is wrong with the fields themselves; where there is anything, do not use them."""
    search, model = manifest.get("search"), manifest["model"]
    tests = {
        "parts": _counts_in(manifest["parts"]),
        "checksums": all(_is_hash(value) for value in manifest["checksums"].values()),
        "model": _is_count(model.get("dimension")) and model["dimension"] > 0,
        "dtype": manifest["dtype"] in DTYPES,
        "counts": _is_account(manifest["counts"]),
        "sources": bool(manifest["sources"]) and all(map(_is_source, manifest["sources"])),
        "search": isinstance(search, dict) and isinstance(search.get("kind"), str),
        "removed": "removed" in manifest,
        "request": isinstance(manifest.get("request"), dict),
    }
    return [f"'{name}' is not as bliss writes it" for name, good in tests.items() if not good]


def count_problems(manifest: Mapping[str, Any]) -> list[str]:
    """What in the counts of a manifest of sound types does not add up."""
    found = []
    parts, sources, counts = manifest["parts"], manifest["sources"], manifest["counts"]
    if manifest["count"] != sum(parts):
        found.append(f"'count' is {manifest['count']:,} and the parts hold {sum(parts):,} rows")
    rows = sum(source["rows"] for source in sources)
    if rows != sum(parts):
        found.append(f"the sources account for {rows:,} rows of {sum(parts):,}")
    names = {name for source in sources for name in source["counts"]}
    for name in sorted({*names, *counts}):
        total = sum(source["counts"].get(name, 0) for source in sources)
        if counts.get(name, 0) != total:
            found.append(f"{name} is {counts.get(name, 0):,} in all and {total:,} by source")
    for source in sources:
        account = source["counts"]
        rest = sum(value for name, value in account.items() if name != "read")
        if account["read"] != rest:
            found.append(f"{source['name']}: {account['read']:,} texts were read, {rest:,} told of")
        stored = account["kept"] + account.get("near_duplicate", 0)
        if stored != source["rows"]:
            found.append(f"{source['name']}: {stored:,} were stored, {source['rows']:,} rows named")
    covered = manifest["search"].get("rows", 0)
    if not _is_count(covered) or covered > sum(parts):
        found.append(f"the search structure covers {covered!r} of {sum(parts):,} rows")
    return found


def name_problems(manifest: Mapping[str, Any]) -> list[str]:
    """Files it lists that no index has, and files its parts need that it does not list."""
    listed = manifest["checksums"]
    found = [f"it lists {name!r}, which is no file of an index" for name in strange_names(listed)]
    wanted = {
        name for number, rows in enumerate(manifest["parts"]) if rows
        for name in files_of_part(number)
    }  # fmt: skip
    found += [f"it does not list {name}" for name in sorted(wanted - set(listed))]
    in_parts = {n for n in listed if n.startswith(("text_emb/", "metadata/", "captions/"))}
    found += [f"it lists {name}, of a part it does not have" for name in sorted(in_parts - wanted)]
    file = manifest["search"].get("file")
    if file is not None and file not in listed:
        found.append(f"its search structure is {file!r}, which it does not list")
    return found


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _counts_in(values: Any) -> bool:
    return bool(values) and all(map(_is_count, values))


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) is not None


def _is_account(counts: Any) -> bool:
    return isinstance(counts, dict) and {"read", "kept"} <= counts.keys() and _counts_in(
        counts.values()
    )  # fmt: skip


def _is_source(source: Any) -> bool:
    return (
        isinstance(source, dict)
        and isinstance(source.get("name"), str)
        and isinstance(source.get("licence"), str | None)
        and isinstance(source.get("corpus"), dict)
        and isinstance(source.get("prompts"), list)
        and all(isinstance(prompt, str) for prompt in source["prompts"])
        and _is_count(source.get("rows"))
        and _is_account(source.get("counts"))
    )

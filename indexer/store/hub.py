"""Caption indexes in dataset repositories of the Hugging Face hub, with their cards.

Large files are uploaded first and an index is then pushed in one commit, so that readers never see
half of it. A pulled index is checked from end to end before it gets its name.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...artefacts import MANIFEST, only_run_in, read_manifest, sha256_of
from ...errors import BlissError, UsageError
from ...progress import Progress
from ...safe_text import counted
from ..encode.encoder import describe_model
from ..search.captions import CaptionIndex
from ..search.index import open_index
from .manifest import HOW_TO_BUILD, KIND, checked_names, files_below, foreign_names
from .verify import check_whole

CARD = "README.md"
DATASET = "dataset"

_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


def hub_api() -> Any:
    """The hub's client, with the login and address of its environment."""
    from huggingface_hub import HfApi

    return HfApi(library_name="bliss-audit")


def push_index(
    folder: Path, repository: str, public: bool, unknown_ok: bool, progress: Progress
) -> str:
    """Push a finished index to a dataset repository, which is created if needed; its address.

    The repository is private unless `public`. Raises UsageError where sources of a public index
    have unknown licences (unless `unknown_ok`), where the repository is public without `public`,
    or holds other files; BlissError for a damaged index, or where the hub cannot be reached.
    """
    _check_name(repository)
    check_whole(folder, progress)
    manifest = read_manifest(folder, KIND, HOW_TO_BUILD)
    names = [*checked_names(manifest, str(folder)), MANIFEST]
    unknown = unknown_licences(manifest)
    if public and unknown and not unknown_ok:
        raise UsageError(
            f"the licence of {', '.join(unknown[:5])} is not known",
            "captions that may be shared, for a public repository",
            "Build with --licence, push without --public, or pass --licence-unknown-ok",
        )
    api = hub_api()
    with _reached(repository):
        created = api.create_repo(repository, repo_type=DATASET, private=not public, exist_ok=True)
        private = api.repo_info(repository, repo_type=DATASET).private
        there = api.list_repo_files(repository, repo_type=DATASET)
    if not public and not private:
        raise UsageError(
            f"{repository} is public", "a private repository", "Name another, or pass --public"
        )
    others = [name for name in there if name not in (CARD, MANIFEST, ".gitattributes")]
    if others and MANIFEST not in there:
        raise UsageError(
            f"{repository} holds other files ({others[0]})",
            "a new repository, or one with an index",
            "Name another one",
        )
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    card = index_card(manifest, repository).encode("utf-8", "replace")
    adding = [CommitOperationAdd(name, str(folder / name)) for name in names]
    with _reached(repository):
        for number, each in enumerate(adding):
            progress("files uploaded", number, len(adding))
            api.preupload_lfs_files(repository, [each], repo_type=DATASET)
        gone = [name for name in others if name not in names and not foreign_names([name])]
        api.create_commit(
            repository,
            [
                *adding,
                CommitOperationAdd(CARD, card),
                *(CommitOperationDelete(name) for name in gone),
            ],
            commit_message=f"Caption index of {manifest['count']:,} rows",
            repo_type=DATASET,
        )
    progress("files uploaded", len(adding), len(adding))
    return str(created)


def pull_index(
    repository: str, target: Path, revision: str | None, progress: Progress
) -> CaptionIndex:
    """Download the index of a repository into a new folder; resumable.

    Only files that its manifest lists are downloaded. Raises UsageError where `target` holds
    anything but the same index; BlissError where the repository has no index, lists files that are
    not an index's, is damaged, or cannot be reached.
    """
    _check_name(repository)
    if target.is_dir() and any(target.iterdir()) and not (target / MANIFEST).is_file():
        raise _taken(target)
    beside = target.with_name(f".{target.name}.pulling")
    api = hub_api()
    with only_run_in(beside):
        with _reached(repository):
            commit = api.repo_info(repository, revision=revision, repo_type=DATASET).sha
            where = {"repo_type": DATASET, "revision": commit, "local_dir": beside}
            there = api.list_repo_files(repository, revision=commit, repo_type=DATASET)
            if MANIFEST in there:
                api.hf_hub_download(repository, MANIFEST, **where)
        manifest = _pulled_manifest(beside, repository, MANIFEST in there)
        names = [*checked_names(manifest, repository), MANIFEST]
        if (target / MANIFEST).is_file():
            same = sha256_of(target / MANIFEST) == sha256_of(beside / MANIFEST)
            shutil.rmtree(beside, ignore_errors=True)
            if not same:
                raise _taken(target)
            check_whole(target, progress)
            return open_index(target)
        with _reached(repository):
            api.snapshot_download(repository, allow_patterns=names, **where)
        shutil.rmtree(beside / ".cache", ignore_errors=True)
        for name in set(files_below(beside)) - {*names, ".bliss.lock"}:
            (beside / name).unlink()
        try:
            check_whole(beside, progress)
        except BlissError as error:
            shutil.rmtree(beside, ignore_errors=True)
            raise BlissError(
                f"the index in {repository} is damaged: {error.given}",
                "an index as it was pushed",
                "Pull again; if that does not help, have it pushed again",
            ) from error
    if target.is_dir():
        target.rmdir()
    os.replace(beside, target)
    return open_index(target)


def _pulled_manifest(beside: Path, repository: str, there: bool) -> dict[str, Any]:
    remedy = "Name one that `bliss index push` made"
    if not there:
        raise BlissError(f"{repository} holds no manifest.json", "a caption index", remedy)
    try:
        return read_manifest(beside, KIND, remedy)
    except BlissError as error:
        raise BlissError(
            f"{repository} holds no caption index: {error.given}", error.needed, remedy
        ) from error


def _taken(target: Path) -> UsageError:
    return UsageError(
        f"{target} holds something else", "a new folder, or the same index", "Choose another one"
    )


def _check_name(repository: str) -> None:
    if not _NAME.fullmatch(repository):
        raise UsageError(
            f"{repository!r} names no repository", "owner/name", "Write it as on the hub"
        )


@contextmanager
def _reached(repository: str) -> Iterator[None]:
    """Turn the client's many exceptions into a BlissError with the reason."""
    try:
        yield
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = " ".join(lines[:2])[:300].rstrip(".")
        raise BlissError(
            f"{repository} could not be reached ({type(error).__name__}: {reason})",
            "a repository of the hub that you may use",
            "Check its name, the network and your login (`hf auth login`), then run the same "
            "command again",
        ) from error


KNOWN_LICENCES = (
    "apache-2.0", "bsd-3-clause", "cc0-1.0", "cc-by-2.0", "cc-by-3.0", "cc-by-4.0", "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cdla-permissive-2.0", "mit", "odc-by",
    "pddl",
)  # fmt: skip
"""The hub's names for licences that corpora of captions have."""
_SIZES = (("n<1K", 10**3), ("1K<n<10K", 10**4), ("10K<n<100K", 10**5), ("100K<n<1M", 10**6),
          ("1M<n<10M", 10**7), ("10M<n<100M", 10**8), ("100M<n<1B", 10**9))  # fmt: skip


def unknown_licences(manifest: Mapping[str, Any]) -> list[str]:
    """The sources with captions but without a stated licence."""
    return [s["name"] for s in manifest["sources"] if s["rows"] and not s["licence"]]


def index_card(manifest: Mapping[str, Any], repository: str) -> str:
    """The card: the hub's metadata, then text. Names and licences are escaped, as they may be
    anything."""
    removed = (manifest["removed"] or {}).get("count", 0)
    rows = manifest["count"]
    size = next((name for name, most in _SIZES if rows < most), "n>1B")
    head = {
        "license": _licence(manifest["sources"]),
        "tags": ["bliss-audit", "caption-index", "clip"],
        "size_categories": [size],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": "train", "path": "metadata/*.parquet"}],
            }
        ],
    }
    yaml = "\n".join(f"{name}: {json.dumps(value)}" for name, value in head.items())
    lines = [
        f"---\n{yaml}\n---",
        f"# Caption index: {counted(rows - removed, 'caption')}",
        "Captions with their CLIP embeddings, made by bliss-audit to find the images that do not "
        "belong in a collection, and to say why.",
        f"- model: {_quoted(describe_model(manifest['model']))}\n"
        f"- stored as {manifest['dtype']}, {counted(rows, 'row')} in "
        f"{counted(len(manifest['parts']), 'part')}"
        + (
            f"; {counted(removed, 'of them was', 'of them were')} removed and not searched"
            if removed
            else ""
        ),
        "## Use it",
        f"```sh\nbliss index pull {repository} captions\n"
        "bliss audit photos --index captions --output audit\n```",
        "Every file is checked against the checksums in `manifest.json`. The captions alone: "
        f'`datasets.load_dataset("{repository}")`.',
        "## Sources",
        "Each source's captions stay under its own licence.",
        _table(manifest["sources"]),
    ]
    return "\n\n".join(lines) + "\n"


def _licence(sources: Sequence[Mapping[str, Any]]) -> str:
    """The licence of all captions as the hub spells it, else `other` or `unknown`."""
    stated = {source["licence"] for source in sources if source["rows"]}
    if not all(stated):
        return "unknown"
    spelt = {licence.strip().lower().replace(" ", "-") for licence in stated}
    return spelt.pop() if len(spelt) == 1 and spelt <= set(KNOWN_LICENCES) else "other"


def _table(sources: Sequence[Mapping[str, Any]]) -> str:
    lines = ["| source | licence | captions | prompts |", "| --- | --- | --- | --- |"]
    for source in sources:
        cells = (
            _quoted(source["name"]),
            _quoted(source["licence"] or "not stated"),
            f"{source['rows']:,}",
            ", ".join(_quoted(prompt) for prompt in source["prompts"]) or "embedded elsewhere",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _quoted(text: str) -> str:
    """One line of text, with Markdown and HTML escaped."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return "".join(c if c.isalnum() or c in " .,:;/-+=" else f"&#{ord(c)};" for c in line)

"""What a data set's card says of its licence."""

from __future__ import annotations

from .addresses import is_remote, read_file

CARD = "README.md"
_MOST = 1 << 20  # bytes; the licence is in the card's head


def card_licence(address: str, revision: str | None = None) -> str | None:
    """The licence that the card in a dataset folder or repository states; None where none is.

    `address` is a path or hf://datasets/owner/name. A card that is missing, unreachable or spoilt
    says nothing: the texts can be read without it.
    """
    from huggingface_hub import DatasetCard

    at = f"@{revision.replace('/', '%2F')}" if revision and is_remote(address) else ""
    try:
        text = read_file(f"{address}{at}/{CARD}", _MOST).decode("utf-8-sig", "replace")
        facts = DatasetCard(text, ignore_metadata_errors=True).data.to_dict()
    except Exception:  # of many kinds: no card, no network, no YAML
        return None
    stated = facts.get("license")
    if stated == "other":
        stated = facts.get("license_name") or stated
    names = stated if isinstance(stated, list) else [stated]
    return ", ".join(str(name) for name in names if name) or None

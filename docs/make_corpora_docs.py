"""Write the table of docs/corpora.md from the presets. Run as: python docs/make_corpora_docs.py"""

from __future__ import annotations

from pathlib import Path

from blissaudit.corpora.registry import SHIPPED, Preset, read_presets

PAGE = Path(__file__).with_name("corpora.md")
START, END = "<!-- presets: from corpora/presets.json -->\n", "<!-- end of presets -->\n"


def presets_table() -> str:
    """The shipped presets as a Markdown table."""
    lines = [
        "| name | corpus | read | texts | download | languages | licence | good for |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for preset in read_presets(SHIPPED).values():
        mark = "" if preset.checked else " (not checked)"
        texts = "" if preset.texts is None else f"{preset.texts:,}"
        cells = (
            f"`{preset.name}`",
            _corpus(preset) + mark,
            _read(preset),
            texts,
            preset.download,
            ", ".join(preset.languages),
            preset.licence,
            f"{preset.good_for}. {preset.note}".strip(),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def page_with_table(page: str) -> str:
    """The page with the table between its two marks."""
    before, rest = page.split(START)
    return before + START + "\n" + presets_table() + "\n" + END + rest.split(END)[1]


def _corpus(preset: Preset) -> str:
    return "built in" if preset.spec == preset.name else f"`{preset.spec}`"


def _read(preset: Preset) -> str:
    names = ("config", "split", "column", "revision")
    parts = [f"{name} `{value}`" for name in names if (value := getattr(preset, name))]
    return ", ".join(parts) or "names"


if __name__ == "__main__":
    PAGE.write_text(page_with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")

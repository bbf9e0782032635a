"""Audit a folder of images from Python. Run as: python examples/audit_folder.py

Without arguments it audits the collection of `bliss demo`: rendered pictures with some strays in
every class folder. This needs no network, because the demo's model comes with the package. With
your own images and captions:

    python examples/audit_folder.py --images photos --captions captions.txt --model ViT-B-16
"""

from __future__ import annotations

import argparse
from pathlib import Path

import blissaudit as ba
import numpy as np
from blissaudit.demo.run import plant
from blissaudit.demo.scenes import sample_captions
from blissaudit.progress import no_progress


def audit_folder(images: Path, captions: Path, model: str, output: Path) -> ba.AuditResult:
    """Audit class folders against themselves, write every result to `output`, and return it."""
    encoder = ba.load_encoder(ba.ModelChoice(model))
    index = ba.build_index(ba.open_corpus(str(captions)), encoder, output / "index")
    embedded = ba.embed_images(ba.open_images(images), encoder, output / "images")
    settings = ba.AuditSettings(k=10)
    result = ba.audit_own(embedded, index, encoder, settings)
    ba.save_audit(result, settings, output, {"call": "examples/audit_folder.py"})
    ba.save_report(output)
    return result


def render_demo(folder: Path) -> tuple[Path, Path]:
    """Render class folders with strays and write captions; where both are."""
    plant(folder / "images", 0, no_progress)
    captions = folder / "captions.txt"
    captions.write_text("\n".join(sample_captions(np.random.default_rng(1), 1000)) + "\n")
    return folder / "images", captions


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Audit a folder of images.")
    parser.add_argument("--images", type=Path, help="one folder per class")
    parser.add_argument("--captions", type=Path, help="a text file with one caption per line")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--output", type=Path, default=Path("bliss-example"))
    given = parser.parse_args(arguments)
    if (given.images is None) != (given.captions is None):
        parser.error("--images and --captions go together")
    images, captions = given.images, given.captions
    if images is None:
        images, captions = render_demo(given.output)

    result = audit_folder(images, captions, given.model, given.output / "audit")
    for image in result.worst(10):
        caption = image.captions[0]
        print(
            f"{image.score:6.2f}  {image.path:<16} nearest class {image.nearest:<10} "
            f"{caption.text} ({caption.pull:+.1f})"
        )
    print(f"Report: {given.output / 'audit' / 'report.html'}")


if __name__ == "__main__":
    main()

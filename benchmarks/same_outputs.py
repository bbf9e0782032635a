"""The same commands in two checkouts: every output file, stdout and stderr compared.

    .venv/bin/python benchmarks/same_outputs.py OLD_CHECKOUT [--new CHECKOUT] [--only PATTERN]

Each checkout runs the commands of COMMANDS with its own `.venv`, both side by side, each in a
folder of its own with the same relative paths. Then the folder that the old checkout left, with a
build and an audit that were killed on the way in it, is copied twice, and both checkouts open and
resume what is there (LATER). Two settings of one command may be spelt differently: a token that
begins with `@` is written as the checkout's own `--help` has it (SPELLINGS), and an option that a
checkout no longer has is written as its successor (`commands/removed.py`). Times, versions,
durations and the places of the folders are not compared (NOISE). What else differs is listed by
command, file and column or key with its largest numerical difference, and is an error unless
INTENDED names it. Every command runs in a fork of one process that has torch loaded already.

Real embeddings and photographs are read where BLISS_TEST_DATA points; without it the commands on
them are left out, which is said.
"""

import argparse
import csv
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from difflib import SequenceMatcher
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from blissaudit.commands.removed import translate

HERE = Path(__file__).resolve().parent
TOLERANCE = 0.0
"""Largest difference of two numbers that passes for none."""
MEASURED = (
    "width", "height", "brightness", "brightness_perc_5", "brightness_perc_99", "entropy", "colour",
    "blurriness", "blurriness_grayscale_std", "range", "pixels_sha256", "sketch",
)  # fmt: skip
INTENDED: tuple[tuple[str, str], ...] = (
    ("*: */build.log.jsonl: : written by the old alone", "stage rates are no longer logged"),
    ("*: *: *sources(?]/undecodable: only in the new", "counted in manifests now"),
    ("*: *: *sources(?]/truncated: only in the new", "counted in manifests now"),
    ("*: */run.json: request/fdr: only in the old", "--fdr became --flag"),
    ("*: */run.json: request/flag: only in the new", "--fdr became --flag"),
    ("*: s-*/run.json: request/trained: head became (*", "it may be given several times"),
    ("old *: */run.json: : written by the new alone", "settings were renamed"),
    ("old *: */report.html: : written by the new alone", "the program in the page changed"),
    ("old run reported: page2.html: data/facts*: 'p and q are empty: *", "stored by the old one"),
    ("audit contamination: */run.json: request/contamination: only in the old", "it became --flag"),
    ("audit null: */run.json: request/empirical_null: only in the old", "it became --flag"),
    ("audit flag: flagged/run.json: request/top: 3 became 20, *", "--top only shows"),
    ("audit flag: stdout: line 5: 0 lines became 17; *", "--top only shows"),
    ("audit filtered: */run.json: request/exclude*: only in the *", "merged into --exclude"),
    *(
        (f"*mislabel: *: *ecision*{key}: only in the new", "images without a question are counted")
        for key in ("classes_not_in_reference", "not_questioned", " questioned", "/questioned")
    ),
    ("audit *: stderr: *clean reused from*", "all inputs are opened before any is embedded"),
    ("*: */run.json: request/top: only in the new", "its default is recorded, as it only shows"),
    ("*: */run.json: checksums/failures.csv: *", "of a file that is compared itself"),
    ("*: */run.json: checksums/scores.*: *", "of a file that is compared itself"),
    ("*: */hits/*.json: index: *", "a digest of the index's manifest, which has other keys"),
    ("*: */hits/*.json: checksums/*: only in the *", "named by the digest"),
    ("*: *.html: *", "the page was designed again"),
    ("*: */issues.*: *", "one list of issues of every kind"),
    ("audit *mislabel: */label_issues.csv: *", "issues.csv under another name"),
    ("*: */run.json: issues: only in the new", "one list of issues of every kind"),
    ("*: stdout: *issues: only in the new", "one list of issues of every kind"),
    ("*: stdout: read_first: only in the new", "one order of strays and wrong labels"),
    ("*: stdout: line *: 0 lines became *issues of *", "issues are listed in the terminal"),
    ("*: */run.json: checksums/*issues.*: *", "of a file that is compared itself"),
    ("*: */run.json: request/question: * became (*", "several questions can be asked"),
    ("*: */run.json: request/question: * became [[]*", "several questions can be asked"),
    ("*: */run.json: request/robust: only in the new", "--no-robust is said"),
    ("*: */copies.parquet: split: only in the new", "splits that a column names"),
    ("*: */run.json: images/set_aside: only in the new", "classes that are set aside are counted"),
    ("*: stdout: counts/set_aside: only in the new", "classes that are set aside are counted"),
    ("*: */run.json: */fingerprint: only in the new", "a run says what it was made from"),
    ("*: *: decision/guaranteed: only in the new", "measured and guaranteed rates are told apart"),
    ("*: *: decision/reason: *", "it says what to do, and names --p-values"),
    ("*: stdout: line *held out for calibration *", "it says what to do, and names --p-values"),
    ("*: */scores.csv: line 1: *", "it has the columns of scores.parquet, which is compared"),
    ("*: */scores.parquet: read_first: only in the new", "one order of strays and wrong labels"),
    ("*: */scores.parquet: given_z: only in the new", "pulls against the class filed under"),
    *(
        (
            f"*: stdout: worst*/captions*/{key}: *",
            "captions that pull away from the class filed under",
        )
        for key in ("caption", "z", "similarity")
    ),
    ("*: stdout: line *(+*", "captions that pull away from the class filed under"),
    ("*: */groups.json: groups*", "captions that pull away from the class filed under"),
    ("*: */groups.json: of: *", "what was not flagged is called unusual"),
    ("*: */groups.json: scores: *", "a checksum of scores.parquet, which is compared itself"),
    *(
        (f"*: */metadata_?.parquet: {key}: only in the new", "measured while images are decoded")
        for key in MEASURED
    ),
    ("*: */manifest.json: checksums/metadata/*: *", "of a file that is compared itself"),
    ("*: */manifest.json: request/collection: only in the new", "labels are part of a request"),
    ("audit table: */manifest.json: request/images: *", "columns are part of a request"),
    ("*: */members.parquet: sketch: only in the new", "for copies between collections"),
    ("*: */manifest.json: checksums/members.parquet: *", "of a file that is compared itself"),
    ("*: */reference/manifest.json: key: *", "made of more than before"),
    ("reference fit: */manifest.json: request: only in the new", "a fit can be repeated"),
    ("audit labels file: stderr: *none of them new*", "contents embedded before are reused"),
    ("audit flag: */run.json: request/fail_on: 1 became flagged=1", "one --fail-on"),
    ("audit per class: */run.json: request/p*: only in the *", "--per-class became --p-values"),
    ("*robust: *", "λ keeps the balance of prompt and captions, so that scores differ"),
    ("audit embeddings own: */run.json: *", "--robust with that λ"),
    ("audit embeddings own: */scores.parquet: *", "--robust with that λ"),
    ("*: stderr: * of emb/test is no class of the reference*", "such labels are counted"),
    ("*: stdout: line *'prompts: {}' became ''", "an empty entry is left out"),
    ("*: stderr: *captions embedded: 603* became 'captions copied*", "they are not embedded"),
    ("*: stdout: line * (guaranteed): *", "measured and guaranteed rates are told apart"),
    ("audit embeddings own: stdout: line *", "--robust with that λ"),
    ("audit embeddings mislabel: stdout: line *issue of*", "issues are listed in the terminal"),
    ("score bliss+: stdout: line *", "version 2 of bliss+"),
    ("score bliss+: */scores.*: *", "version 2 of bliss+"),
    ("*eval *: stderr: *scores evaluated: 26*", "three scores more"),
    ("score bliss+: */run.json: bliss_plus: *", "version 2 of bliss+"),
    ("*eval *: eval/eval.json: *", "three scores more, and version 2 of bliss+"),
    ("*eval *: bliss-eval/*: *", "three scores more, and version 2 of bliss+"),
    ("*eval *: eval/*: *", "three scores more, and version 2 of bliss+"),
    ("*eval *: stdout: *", "three scores more, and version 2 of bliss+"),
    ("*: stdout: *rank*_[ab]: only in the new", "runs are compared by rank"),
    ("*export*: exported*/data*: *", "the columns of scores.parquet"),
    ("*export*: exported*/dataset_info.json: *", "the columns of scores.parquet"),
    ("*: stdout: *similarity: *, a difference of ?.*e-08", "rounded once, from float64"),
    ("old *: */*: : written by the new alone", "repeated with what the new one adds"),
    ("old run reported: stdout: line 1: *", "the size of a page that was designed again"),
    ("diff: *: *rank*", "runs are compared by rank"),
    ("old *: stderr: *fitted reference reused from*", "a reference made before is found"),
    (
        "score bliss+: s-bliss+/scores.*: score: *, at most by ?.*e-08",
        "its weights are scipy's L-BFGS-B's",
    ),
    ("corpora list: stdout: */note: *", "notes say more"),
    ("corpora list: stdout: */download: only in the new", "presets say what a build downloads"),
    ("corpora list: stdout: coco-captions/licence: *", "the card names none"),
    ("corpora list: stdout: sbu-captions/revision: *", "pinned at a commit"),
    ("corpora list: stdout: roco/texts: 59958 became 59962,*", "as its card has it"),
    *(
        (f"corpora list: stdout: {name}: only in the new", "a new preset")
        for name in (
            "diffusiondb-prompts",
            "flickr30k-quintets",
            "localized-narratives",
            "multi30k-de",
            "pixmo-cap",
            "product-titles",
        )
    ),
    (
        "*keyed*: stderr: *became 'keyed.txt: columns separated by tab, no header, column 2'",
        "what separates columns is said",
    ),
    (
        "index build keyed: idx3/manifest.json: *sources(0]*kind: 'keyed-lines' became 'text-file'",
        "keyed-captions: became --column 2",
    ),
    (
        "index build keyed: idx3/manifest.json: *sources(0]*: *'keyed.txt'",
        "keyed-captions: became --column 2",
    ),
    (
        "index build keyed: idx3/manifest.json: *sources(0]*column: None became 2",
        "keyed-captions: became --column 2",
    ),
    (
        "index build keyed: idx3/manifest.json: *sources(0]*delimiter: only in the new",
        "keyed-captions: became --column 2",
    ),
    (
        "index build keyed: idx3/manifest.json: *sources(0]*header: only in the new",
        "keyed-captions: became --column 2",
    ),
    (
        "index build keyed: idx3/metadata/metadata_0.parquet: source: 70 of 70 *",
        "keyed-captions: became --column 2",
    ),
    (
        "index build keyed: idx3/manifest.json: checksums/metadata/metadata_0.parquet: *",
        "of a file that is compared itself",
    ),
    ("index verify: stdout: line 2: *13 there' became *12 there'", "build.log.jsonl is gone"),
    ("corpora show: stdout: download: only in the new", "presets say what a build downloads"),
    ("corpora *: stdout: *split_cells: only in the new", "presets may hold lists of names"),
)
"""(pattern of a listed difference, why it is meant to be): fnmatch on 'command: file: key: what',
with ( for every [."""
REWORDED: tuple[tuple[str, str], ...] = (
    (r"\b(embeddings of .*|fitted reference) taken over from", r"\1 reused from"),
    (r"(?m)^1 could not be read", "1 image could not be read"),
    (
        r"give --calibration DIR with other clean images, or --top N, --contamination SHARE or "
        r"--empirical-null",
        "give --calibration DIR with other clean images, or say what to flag: "
        "--flag N, --flag N% or --flag empirical-null",
    ),
    (r"--robust left (.* images?) out of (.* class)", r"--robust dropped \1, from \2"),
    ("1 image flagged: another class suits them", "1 image flagged: another class suits it"),
    ("a null guessed from the scores", "a null estimated from the scores"),
    ("as many as --top says", "as many as --flag says"),
    (
        r"1 unreadable files are left out \(failures.csv lists them\)",
        "1 unreadable file is left out (failures.csv says why)",
    ),
    ("the results are whole", "the results are complete"),
    (r"\b(\w+) was asked for without", r"\1 was used without"),
    ("--score oecl --head head", "--score oecl --trained head"),
    ("Add --(head|clipn) DIR", "Add --trained DIR"),
    (r"(skipped clipn_ctw: .*\n)(skipped clipn_atd: .*\n)", r"\2\1"),
    ("a model it does not name", "an unnamed model"),
)
"""(pattern, replacement) that makes the old checkout's messages the new one's."""
RENAMED = {"head": "trained", "weight": "lambda", "label": "class_prompt"}
"""Keys of `request` in run.json: the old name, and the new one."""

SCORES = (
    "bliss+ clip_ad costarr csp debiased_negatives energy eoe gaussian_ad knn mahalanobis "
    "maximum_cosine mcm msp neglabel neglabel_one_group neglabel_retrieved "
    "relative_mahalanobis smmp sparse_lookup vim"
).split()
"""Every score that needs nothing trained, but for `bliss`, the default; clip_ad has no text."""

NOISE_KEYS = re.compile(
    r"(^|[./])(at|seconds|created|started|finished|version|libraries|per_second|rows_per_second"
    r"|busy_seconds|_fingerprint|peak_mib|encoder_waited|queries_per_second|milliseconds|limit|notes|encode_rate"
    r"|\w*_seconds|\w*_per_second|speed\w*|machine|threads)([./\[]|$)"
)
NOISE = (
    (re.compile(r"(?m)^.*(the encoder waited|\bread\w+ [\d,]+/s, .* limits?$).*\n?"), ""),
    (re.compile(r"(?m)^.*captions per second$\n?"), ""),
    (re.compile(r"(?m)^[\w ]+: [\d,]+ of [\d,]+, .* left$\n?"), ""),
    (re.compile(r"GIF or TIFF image|GIF, TIFF or AVIF image"), "or other image"),
    (re.compile(r"keyed-captions:keyed\.txt|keyed\.txt, column '2'"), "keyed.txt"),
    (re.compile(r"(?m)^.*examples/s\].*\n?"), ""),
    (re.compile(r"(?m)\| \d+\.\d{3} \| \d+\.\d \|$"), "| <seconds> | <MiB> |"),
    (re.compile(r"\d[\d.,]* [KMG]iB free"), "<memory> free"),
    (re.compile(r"(?m)^[ *-](  ?(exact|SQ8) .*\S) +[\d.]+ +[\d,]+ +[\d.]+$"), r"\1 <speeds>"),
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|\+\d\d:\d\d)?( UTC)?"), "<time>"),
    (re.compile(r"\b\d[\d,]*(\.\d+)? ?(ms|s|seconds?|minutes?)\b"), "<duration>"),
    (re.compile(r"\b\d[\d,]*(\.\d+)? (images|captions|texts|rows|queries)(/s| (a|per) second)"),
     r"<rate> \2"),
    (re.compile(r"\b\d[\d,]*(\.\d+)?/s\b|\(\d[\d,]* a second\)"), "<rate>"),
    (re.compile(r"\b\d+\.\d+\.\d+(\.dev\d+|rc\d+)?\b"), "<version>"),
    (re.compile(r"/tmp/[\w./+@=-]+|\btmp\w{8}\b"), "<temporary>"),
)  # fmt: skip
"""What is not compared in text."""


class Command(NamedTuple):
    """One `bliss` command, written for both checkouts."""

    name: str
    tokens: str
    code: int = 0
    """The exit status it must have in both."""
    kill: str = ""
    """Kill it as soon as a file matches this, instead of letting it end."""
    real: bool = False
    """Whether it reads BLISS_TEST_DATA."""


def spell_pair(old: str, new: str) -> Callable[[str, set[str]], list[str]]:
    """An option that was renamed: the new spelling where the command knows it."""
    return lambda value, known: [new if new in known else old, value]


def _report(value: str, known: set[str]) -> list[str]:
    if "--report" in known:
        return ["--report", value]
    return ["--no-report"] if value == "none" else ["--report-images", value]


def _search(value: str, known: set[str]) -> list[str]:
    if "--search" in known:
        return ["--search", value]
    words = []
    for word in value.split(","):
        name, equals, number = word.partition("=")
        if not equals:
            words += ["--search-kind", word] if word == "exact" else []
        elif name == "device":
            words += ["--search-device", number]
        else:
            words += ["--search-set", word]
    return words


def _trained(value: str, known: set[str]) -> list[str]:
    return ["--trained" if "--trained" in known else "--head", value]


def _engine(value: str, known: set[str]) -> list[str]:
    if "--ray-address" not in known:
        return ["--engine", value]
    engine, _, rest = value.partition(":")
    words = ["--engine", engine]
    for word in filter(None, rest.split(",")):
        actors = word.startswith("actors=")
        words += ["--ray-actors", word[7:]] if actors else ["--ray-address", word]
    return words


def _dataset(value: str, known: set[str]) -> list[str]:
    """FOLDER:SPLIT of a dataset folder as a corpus."""
    folder, _, split = value.rpartition(":")
    return [folder, "--split", split] if "--split" in known else [value]


def _keyed(value: str, known: set[str]) -> list[str]:
    """`image#n<TAB>caption` lines."""
    return [value, "--column", "2"] if "--split-cells" in known else [f"keyed-captions:{value}"]


def _class_prompt(value: str, known: set[str]) -> list[str]:
    names = [n for n in ("--class-prompt", "--label-prompt", "--prompt-for") if n in known]
    return [names[0] if names else "--label", value]


def _flag(value: str, known: set[str]) -> list[str]:
    names = [name for name in ("--flag-top", "--flag") if name in known]
    return [names[0] if names else "--top", value]


def _fail_on(value: str, known: set[str]) -> list[str]:
    return ["--fail-on", value if "--max-failures" in known else f"flagged={value}"]


SPELLINGS: dict[str, Callable[[str, set[str]], list[str]]] = {
    "lambda": spell_pair("--weight", "--lambda"),
    "show": spell_pair("--top", "--show"),
    "labels": spell_pair("--labels", "--labels-file"),
    "image": spell_pair("--image", "--like"),
    "flag": _flag,
    "failon": _fail_on,
    "class": _class_prompt,
    "report": _report,
    "search": _search,
    "trained": _trained,
    "engine": _engine,
    "dataset": _dataset,
    "keyed": _keyed,
}
"""How a neutral token `@name=value` is spelt, given the options that the command's help names."""

E = "--embeddings emb/test --reference emb/val --index eidx --prompt a_photo_of_a_{label}"
P = "--model demo --workers 1"
COMMANDS = (
    # corpora and indexes
    Command("corpora list", "corpora list --json"),
    Command("corpora show", "corpora show imagenet-1k --json"),
    Command("corpora peek", "corpora peek captions.txt --json"),
    Command("corpora peek table", "corpora peek captions.csv --column caption --rows 50"),
    Command("corpora peek dataset", "corpora peek @dataset=flickr:train --rows 20", real=True),
    Command("corpora peek keyed", "corpora peek @keyed=keyed.txt --rows 20"),
    Command("index build", "index build captions.txt --model demo --part-rows 100 -o idx"),
    Command("index build again", "index build captions.txt --model demo --part-rows 100 -o idx"),
    Command("index build two", "index build captions.csv more.txt --model demo "
            "--dtype float32 --near-duplicates 0.98 --licence CC0 -o idx2"),
    Command("index build keyed", "index build @keyed=keyed.txt --model demo --export -o idx3"),
    Command("index build embeddings", "index build --embeddings emb/texts -o eidx", real=True),
    Command("index info", "index info idx --json"),
    Command("index info text", "index info idx2"),
    Command("index add", "index add idx2 extra.txt --model demo"),
    Command("index remove", "index remove idx2 --contains clock"),
    Command("index remove like", "index remove idx2 --like a_red_boat --above 0.9 --dry-run"),
    Command("index remove undo", "index remove idx2 --undo last"),
    Command("index remove regex", "index remove idx2 --caption stripes$"),
    Command("index kind", "index kind idx2 IVF4,SQ8 --set nprobe=2 --threads 1"),
    Command("index verify", "index verify idx2 --embed 5"),
    Command("index search", "index search idx2 --text a_red_boat --k 5 --json"),
    Command("index search exact", "index search idx idx2 --text a_boat @search=exact --k 3"),
    Command("index search nprobe", "index search idx2 --text a_boat @search=nprobe=4 --k 3 --json"),
    Command("index search image", "index search idx @image=new/one.png --k 4 --json"),
    Command("index search embeddings", "index info eidx --json", real=True),
    Command("index tune", "index tune idx --images photos --dry-run --kinds SQ8 " + P),
    # audits of photographs
    Command("audit", "audit photos --index idx -o first " + P),
    Command("audit again", "audit photos --index idx -o first --json " + P),
    Command("audit corpus", f"audit photos --corpus more.txt --k 5 @lambda=0.3 -o second {P}"),
    Command("audit clean", "audit photos --reference clean --index idx @report=5 -o third " + P),
    Command("audit calibration", "audit photos --reference clean --calibration clean2 --fdr 0.2 "
            "--index idx -o calibrated --json " + P),
    Command("audit per class", "audit photos --reference clean --calibration clean2 --per-class "
            "--index idx -o calibrated2 @report=none " + P),
    Command("audit contamination", "audit photos --index idx --contamination 0.1 -o share " + P),
    Command("audit null", "audit photos --index idx --empirical-null @report=none -o null " + P),
    Command("audit flag", f"audit photos --index idx @flag=3 @failon=1 -o flagged {P}", 4),
    Command("audit robust", "audit photos --index idx --robust @report=none -o robust " + P),
    Command("audit mislabel", "audit photos --index idx --question mislabel -o mislabel " + P),
    Command("audit normal", "audit flat --index idx --normal apple --normal boat "
            "@class=boat=a_drawing_of_a_boat -o normal " + P),
    Command("audit filtered", "audit photos --index idx --exclude-near-labels 0.95 "
            "--exclude-label-words @report=none -o filtered " + P),
    Command("audit tar", f"audit shards --index idx @report=none -o tar {P}"),
    Command("audit table", "audit table.parquet --index idx --image-column image "
            f"--label-column label @report=none -o table {P}"),
    Command("audit paths", f"audit paths.csv --index idx @report=none -o paths {P}"),
    Command("audit labels file", f"audit flat --index idx @labels=labels.csv -o labelled {P}"),
    Command("audit caltech", f"audit caltech --index idx -o caltech-run {P}", real=True),
    Command("audit refused", f"audit photos --index nowhere -o refused {P}", 1),
    # embeddings, and every score
    Command("audit embeddings", f"audit {E} @lambda=0.5 @report=none -o e-bliss", real=True),
    Command("audit embeddings own", "audit --embeddings emb/val --index eidx "
            "--prompt a_photo_of_a_{label} --robust @report=none -o e-own", real=True),
    Command("audit embeddings mislabel", "audit --embeddings emb/val --index eidx --question "
            "mislabel --prompt a_photo_of_a_{label} @report=none -o e-mislabel", real=True),
    *(Command(f"score {name}", f"audit {E} --score {name} @report=none -o s-{name}",
              2 if name == "clip_ad" else 0, real=True) for name in SCORES),
    Command("eval every score", "eval --reference clean --test photos --index idx --protocol "
            f"random-2 --draws 1 -o eval --json {P}"),
    Command("eval embeddings", "eval --reference emb/val --test emb/test --index eidx --prompt "
            "a_photo_of_a_{label} --protocol random-3 --draws 2 --score bliss --score mcm --score "
            "knn:k=3 --baseline mcm -o e-eval", real=True),
    Command("eval from", "eval --from eval/eval.json"),
    # what follows an audit
    Command("reference fit", "reference fit clean --calibration 0.25 -o reference " + P),
    Command("score", "score new/one.png new/two.png --reference reference --index idx --json " + P),
    Command("find text", "find first --text a_drawing_of_a_house --k 4 --json"),
    Command("find like", "find first --like new/one.png --k 4 --model demo"),
    Command("diff", "diff first third -o diff.csv @show=5"),
    Command("diff json", "diff first second --json"),
    Command("report", "report first -o page.html --images 7"),
    Command("apply", "apply decisions.csv --run first --list kept.csv"),
    Command("apply copy", "apply decisions.csv --run first --copy cleaned"),
    Command("export", "export first --save-to-disk exported"),
    Command("corpora compare", "corpora compare photos --index idx --index idx2 --truth truth.csv "
            f"--json {P}"),
    Command("train oecl", "train oecl many --outliers strange --epochs 3 -o head " + P),
    Command("audit oecl", "audit photos --reference clean --index idx --score oecl @trained=head "
            f"@report=none -o s-oecl {P}"),
    *(Command(f"audit {name}", f"audit photos --reference clean --index idx --score {name} "
              f"@trained=head @report=none -o s-{name} {P}")
      for name in ("outlier_knn_ratio", "outlier_logistic")),
    Command("index build killed", "index build captions.txt --model demo --part-rows 20 -o kidx",
            -9, "kidx/parts/*"),
    Command("index build keyed killed", "index build @keyed=keyed.txt --model demo --part-rows 5 "
            "-o kkeyed", -9, "kkeyed/parts/*"),
    Command("index build dataset killed", "index build @dataset=words:train --model demo "
            "--part-rows 5 -o kwords", -9, "kwords/parts/*"),
    Command("audit killed", f"audit photos --reference clean --index idx -o kaudit {P}", -9,
            "kaudit/hits/*.npy"),
)  # fmt: skip
LATER = (
    Command("old index", "index info idx --json"),
    Command("old index verified", "index verify idx2 --embed 3"),
    Command("old index searched", "index search idx2 --text a_red_boat --k 5 --json"),
    Command("old build resumed", "index build captions.txt --model demo --part-rows 20 -o kidx"),
    Command("old keyed build resumed", "index build @keyed=keyed.txt --model demo --part-rows 5 "
            "-o kkeyed"),
    Command("old dataset build resumed", "index build @dataset=words:train --model demo "
            "--part-rows 5 -o kwords"),
    Command("old index repeated", "index build captions.txt --model demo --part-rows 100 -o idx"),
    Command("old keyed index repeated", "index build @keyed=keyed.txt --model demo --export "
            "-o idx3"),
    Command("old keyed index extended", "index add idx3 extra.txt --model demo"),
    Command("old audit resumed", f"audit photos --reference clean --index idx -o kaudit {P}"),
    Command("old cache reused", f"audit photos --index idx -o first {P}"),
    Command("old reference", "score new/one.png --reference reference --index idx2 --json " + P),
    Command("old reference in audit", f"audit photos --reference reference --index idx2 -o r {P}"),
    Command("old run applied", "apply decisions.csv --run first --list kept2.csv"),
    Command("old run repeated", "audit photos --reference clean --index idx @report=5 -o third "
            + P),
    Command("old embeddings audited", f"audit {E} @lambda=0.5 @report=none -o e-bliss", real=True),
    Command("old index reduced", "index remove idx2 --contains boat"),
    Command("old index restored", "index remove idx2 --undo last"),
    Command("old run found in", "find third --text a_drawing_of_a_house --k 4 --json"),
    Command("old run reported", "report third -o page2.html"),
    Command("old runs compared", "diff second third --json"),
    Command("old run exported", "export third --save-to-disk exported3"),
    Command("old head", "audit photos --reference clean --index idx2 --score oecl @trained=head "
            f"@report=none -o s-oecl2 {P}"),
    Command("old eval repeated", "eval --from eval/eval.json"),
    Command("old index extended", "index add idx more.txt --model demo"),
)  # fmt: skip

MAKE_DATA = r"""
import csv, io, pathlib, sys, tarfile
import numpy as np, pyarrow as pa, pyarrow.parquet as pq
from blissaudit.demo.captions import sample_captions  # of the old checkout, which makes the data
from blissaudit.demo.scenes import render_scene, sample_scene
rng = np.random.default_rng(0)
def draw(path, kind):
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    render_scene(sample_scene(rng, kind), 64).save(path)
    return path
kinds = ("apple", "boat", "house")
photos = [draw(f"photos/{k}/{n}.png", k) for k in kinds for n in range(7)]
photos += [draw("photos/apple/stray.png", "clock"), draw("photos/boat/stray.png", "umbrella")]
pathlib.Path("photos/house/broken.png").write_bytes(b"no picture")
for folder in ("clean", "clean2"):
    for k in kinds:
        for n in range(6):
            draw(f"{folder}/{k}/{n}.png", k)
for k in ("balloon", "cactus", "key"):
    for n in range(10):
        draw(f"strange/{k}/{n}.png", k)
for k in kinds:
    for n in range(10):
        draw(f"many/{k}/{n}.png", k)
draw("new/one.png", "apple"), draw("new/two.png", "key")
lines = sample_captions(rng, 400)
pathlib.Path("captions.txt").write_text("\n".join(lines[:240] + lines[:3]) + "\n")
pathlib.Path("more.txt").write_text("\n".join(lines[200:300]) + "\n")
pathlib.Path("extra.txt").write_text("\n".join(lines[290:330]) + "\n")
keyed = "".join(f"{i}.jpg#0\t{text}\n" for i, text in enumerate(lines[330:]))
pathlib.Path("keyed.txt").write_text(keyed)
pathlib.Path("words/data").mkdir(parents=True)
words = pa.table({"caption": lines[:80]})
pq.write_table(words, "words/data/train-00000-of-00001.parquet")
with open("captions.csv", "w", newline="") as file:
    csv.writer(file).writerows([("id", "caption"), *enumerate(lines[100:220])])
pathlib.Path("flat").mkdir(), pathlib.Path("shards").mkdir()
rows = [(f"{i:03}.png", path.parent.name, path.read_bytes()) for i, path in enumerate(photos)]
with tarfile.open("shards/s-0000.tar", "w") as tar:
    for name, label, data in rows:
        pathlib.Path("flat", name).write_bytes(data)
        for member, content in ((name, data), (name[:-3] + "cls", label.encode())):
            info = tarfile.TarInfo(member)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
table = {"image": [r[2] for r in rows], "label": [r[1] for r in rows]}
pq.write_table(pa.table(table), "table.parquet")
for name, column, paths in (
    ("labels.csv", "label", [(f"flat/{r[0]}", r[1]) for r in rows]),
    ("paths.csv", "label", [(p.as_posix(), p.parent.name) for p in photos]),
    ("truth.csv", "is_stray", [(p.relative_to("photos").as_posix(), int(p.stem == "stray"))
                               for p in photos]),
):
    with open(name, "w", newline="") as file:
        csv.writer(file).writerows([("path", column), *paths])
"""

SERVER = r"""
import glob, json, os, signal, sys, time
import torch, open_clip, faiss, numpy, pyarrow.parquet, datasets
from blissaudit.cli import main
for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if not child:
        os.setsid()
        os.chdir(job["folder"])
        os.environ["BLISS_CACHE"] = job["cache"]
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(job[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        code = 70
        try:
            if "code" in job:
                exec(job["code"], {"__name__": "data"})
                code = 0
            else:
                sys.argv = ["bliss", *job["argv"]]
                code = main()
        except SystemExit as end:
            code = end.code
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(int(code or 0))
    end = time.monotonic() + 300
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        seen = job["kill"] and glob.glob(os.path.join(job["folder"], job["kill"]))
        if seen or time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
        time.sleep(0.002 if job["kill"] else 0.02)
    sys.__stdout__.write(json.dumps(os.waitstatus_to_exitcode(status)) + "\n")
    sys.__stdout__.flush()
"""
"""Runs one command after another, each in a fork, so that torch is loaded once."""


class Checkout:
    """One checkout, the process that runs its commands, and the options its commands know."""

    def __init__(self, root: Path, logs: Path, is_old: bool) -> None:
        self.root, self.logs, self.is_old = root.resolve(), logs, is_old
        self.logs.mkdir(parents=True)
        own = self.root / ".venv" / "bin" / "python"
        if not own.exists():
            raise SystemExit(f"{root}: no .venv there; make one first, as `make demo` does")
        path = logs / "package"
        path.mkdir()
        os.symlink(self.root, path / "blissaudit")
        changed = {
            "PYTHONPATH": str(path),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONHASHSEED": "0",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "BLISS_CONFIG": str(logs / "settings"),
            "COLUMNS": "100",
        }
        self.process = subprocess.Popen(
            [str(own), "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **changed},
        )
        self.known: dict[str, set[str]] = {}
        self.lock = threading.Lock()

    def send(self, folder: Path, name: str, **job: Any) -> int:
        """Have one job done in `folder`; its exit status."""
        cache = str(folder.parent / "cache")
        asked = {"folder": str(folder), "cache": cache, "kill": "", **job}
        for stream in ("stdout", "stderr"):
            asked[stream] = str(self.logs / f"{name}.{stream}")
        assert self.process.stdin and self.process.stdout
        with self.lock:
            self.process.stdin.write(json.dumps(asked) + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"{self.root}: its process ended; see above")
        return int(json.loads(answer))

    def spell(self, folder: Path, tokens: str) -> list[str]:
        """A command's words as this checkout has them."""
        words = tokens.split()
        if words[0] in ("audit", "score") and "--score" not in words:
            words += ["--score", "bliss"]  # bliss+ is the default now
        if words[0] == "audit" and "--question" not in words:
            words += ["--question", "stray"]  # every question is the default now
        plain = next((i for i, word in enumerate(words) if word[0] in "-@"), len(words))
        groups = ("index", "corpora", "reference", "train")
        path = words[: min(plain, 2 if words[0] in groups else 1)]
        title = " ".join(path)
        if title not in self.known:
            self.send(folder, "help", argv=[*path, "--help"])
            text = (self.logs / "help.stdout").read_text(encoding="utf-8")
            self.known[title] = set(re.findall(r"--[a-z][a-z-]*", text))
        if "--no-robust" in self.known[title] and "--robust" not in words:
            words.append("--no-robust")  # an own reference is fitted again by default now
        spelt: list[str] = []
        for word in words:
            if word.startswith("@"):
                name, _, value = word[1:].partition("=")
                spelt += SPELLINGS[name](value, self.known[title])
            else:
                spelt.append(word)
        return [_spaced(word) for word in translate(spelt, self.known[title])]

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


def _spaced(word: str) -> str:
    """`a_photo_of_a_{label}` stands for words: articles give them away."""
    return word.replace("_", " ") if re.search(r"(^|=)an?_", word) else word


Snapshot = dict[str, str]


def snapshot(folder: Path) -> Snapshot:
    """The checksum of every file there."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.endswith(".lock"):
            found[path.relative_to(folder).as_posix()] = _checksum(path)
    return found


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def changed(before: Snapshot, after: Snapshot) -> set[str]:
    """The files written since, those that went away too."""
    return {n for n in {*before, *after} if before.get(n) != after.get(n)}


def tidy(text: str, folder: Path, root: Path) -> str:
    """Text without what is not compared."""
    for place, said in (
        (str(folder), "<folder>"),
        (str(folder.parent), "<side>"),
        (str(root), "<checkout>"),
    ):
        text = text.replace(place, said)
    for pattern, said in NOISE:
        text = pattern.sub(said, text)
    return text


class Difference(NamedTuple):
    """One difference: where, what, and how large where it is a number's."""

    command: str
    file: str
    key: str
    what: str

    @property
    def intended(self) -> str | None:
        """Why it is meant to be; None where nothing says so."""
        place = f"{self.command}: {self.file}: {self.key}: {self.what}".replace("[", "(")
        return next((why for pattern, why in INTENDED if fnmatch(place, pattern)), None)


Found = Iterator[tuple[str, str]]
Tidy = Callable[[str], str]


def compare_arrays(key: str, old: np.ndarray, new: np.ndarray) -> Found:
    """(key, what differs) of two arrays."""
    if old.shape != new.shape or old.dtype != new.dtype:
        yield key, f"{old.dtype}{list(old.shape)} became {new.dtype}{list(new.shape)}"
    elif old.tobytes() != new.tobytes():
        if old.dtype.kind not in "fiub":
            yield key, f"{int((old != new).sum())} of {old.size} entries differ"
            return
        gap = np.abs(old.astype(np.float64) - new.astype(np.float64))
        gap[np.isnan(old.astype(float)) & np.isnan(new.astype(float))] = 0
        largest = float(np.nanmax(gap, initial=0))
        if largest > TOLERANCE or np.isnan(gap).any():
            yield key, f"{int((gap != 0).sum())} of {gap.size} differ, at most by {largest:.3g}"


def compare_json(key: str, old: Any, new: Any, tidied: tuple[Tidy, Tidy]) -> Found:
    """The keys at which two JSON values differ."""
    if NOISE_KEYS.search(key):
        return
    if isinstance(old, dict) and isinstance(new, dict):
        if key == "request":
            old = {RENAMED.get(k, k) if k not in new else k: v for k, v in old.items()}
        for name in sorted({*old, *new}):
            inner = f"{key}/{name}" if key else name
            if name not in old or name not in new:
                if not NOISE_KEYS.search(inner):
                    yield inner, "only in the old" if name in old else "only in the new"
            else:
                yield from compare_json(inner, old[name], new[name], tidied)
    elif isinstance(old, list) and isinstance(new, list) and named(old, new):
        yield from compare_json(key, named(old, new)[0], named(old, new)[1], tidied)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, pair in enumerate(zip(old, new, strict=True)):
            yield from compare_json(f"{key}[{number}]", *pair, tidied)
    elif isinstance(old, str) and isinstance(new, str):
        if tidied[0](old) != tidied[1](new):
            yield key, f"{tidied[0](old)[:80]!r} became {tidied[1](new)[:80]!r}"
    elif old != new:
        both = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (old, new))
        if not both or abs(old - new) > TOLERANCE:
            gap = f", a difference of {abs(old - new):.3g}" if both else ""
            yield key, f"{str(old)[:60]} became {str(new)[:60]}{gap}"


def named(old: list[Any], new: list[Any]) -> tuple[dict[str, Any], ...]:
    """Lists of unequal length by the names of their entries; () where the entries have none."""
    if len(old) == len(new) or not old or not new:
        return ()
    if all(isinstance(e, dict) and isinstance(e.get("name"), str) for e in old + new):
        return tuple({e["name"]: e for e in entries} for entries in (old, new))
    if all(isinstance(e, list) and len(e) == 2 and isinstance(e[0], str) for e in old + new):
        return tuple(dict(entries) for entries in (old, new))
    return ()


def compare_text(old: str, new: str) -> Found:
    """Every run of lines that differs, by the first of its lines in the new text."""
    one, two = old.splitlines(), new.splitlines()
    for kind, a, b, c, d in SequenceMatcher(None, one, two, autojunk=False).get_opcodes():
        if kind == "equal":
            continue
        left, right = "; ".join(one[a:b]), "; ".join(two[c:d])
        at = next((i for i, (x, y) in enumerate(zip(left, right, strict=False)) if x != y), 0)
        start = max(at - 30, 0) if kind == "replace" else 0
        shown = f"{left[start : start + 90]!r} became {right[start : start + 90]!r}"
        yield f"line {c + 1}", f"{b - a} lines became {d - c}; {shown}"


_DATA = re.compile(r'(?s)<script type="application/json" id="data">(.*?)</script>')
_CODE = re.compile(r"(?s)<script>.*?</script>|script-src '[^']*'")


def compare_pages(old: str, new: str, tidied: tuple[Tidy, Tidy]) -> Found:
    """Reports: the data in them, their pictures and text, but not the program that shows them."""
    one, two = (_DATA.search(text) for text in (old, new))
    if one and two:
        yield from compare_json("data", json.loads(one[1]), json.loads(two[1]), tidied)
        old, new = _DATA.sub("", old), _DATA.sub("", new)
    yield from compare_text(tidied[0](_CODE.sub("", old)), tidied[1](_CODE.sub("", new)))


def compare_columns(old: pa.Table, new: pa.Table) -> Found:
    """The columns in which two tables differ."""
    for name in dict.fromkeys([*old.column_names, *new.column_names]):
        if name not in old.column_names or name not in new.column_names:
            yield name, "only in the old" if name in old.column_names else "only in the new"
            continue
        a, b = old[name].combine_chunks(), new[name].combine_chunks()
        if a.equals(b):
            continue
        if pa.types.is_floating(a.type) and pa.types.is_floating(b.type):
            yield from compare_arrays(name, a.to_numpy(False), b.to_numpy(False))
        else:
            gaps = sum(x != y for x, y in zip(a.to_pylist(), b.to_pylist(), strict=False))
            if gaps or len(a) != len(b) or a.type != b.type:
                yield name, f"{gaps} of {len(a)} entries differ ({a.type}, {b.type})"


def compare_csv(old: str, new: str) -> Found:
    """The columns in which two csv files differ."""
    one, two = (list(csv.reader(text.splitlines())) for text in (old, new))
    if not one or not two or one[0] != two[0] or len(one) != len(two):
        yield from compare_text(old, new)
        return
    for at, name in enumerate(one[0]):
        if NOISE_KEYS.search(name):
            continue
        cells = [(a[at], b[at]) for a, b in zip(one[1:], two[1:], strict=True) if a != b]
        cells = [(a, b) for a, b in cells if a != b]
        if cells:
            try:
                gap = f", at most by {max(abs(float(a) - float(b)) for a, b in cells):.3g}"
            except ValueError:
                gap = f"; {cells[0][0][:40]!r} became {cells[0][1][:40]!r}"
            yield name, f"{len(cells)} of {len(one) - 1} entries differ{gap}"


def compare_files(old: Path, new: Path, tidied: tuple[Tidy, Tidy]) -> Found:
    """(column or key, what differs) of two files, each read as its kind."""
    a, b = old.read_bytes(), new.read_bytes()
    if a == b:
        return
    kind = old.suffix
    if kind == ".npy":
        yield from compare_arrays("", np.load(old), np.load(new))
    elif kind == ".parquet":
        yield from compare_columns(pq.read_table(old), pq.read_table(new))
    elif kind == ".safetensors":
        from safetensors.numpy import load

        one, two = load(a), load(b)
        for name in sorted({*one, *two}):
            if name in one and name in two:
                yield from compare_arrays(name, one[name], two[name])
            else:
                yield name, "only in the old" if name in one else "only in the new"
    elif kind in (".json", ".jsonl"):
        one, two = (_json_of(text.decode(), kind) for text in (a, b))
        yield from compare_json("", one, two, tidied)
    elif kind == ".html":
        yield from compare_pages(a.decode(), b.decode(), tidied)
    elif kind == ".csv":
        yield from compare_csv(tidied[0](a.decode()), tidied[1](b.decode()))
    else:
        try:
            one, two = tidied[0](a.decode()), tidied[1](b.decode())
        except UnicodeDecodeError:
            yield "", f"{len(a)} bytes became {len(b)}"
        else:
            yield from compare_text(one, two)


def _json_of(text: str, kind: str) -> Any:
    if kind == ".json":
        return json.loads(text)
    lines = [json.loads(line) for line in text.splitlines()]
    return sorted(lines, key=lambda one: (str(one.get("stage")), one.get("part", -1)))


def compare_streams(old: str, new: str, tidied: tuple[Tidy, Tidy]) -> Found:
    """stdout or stderr: as JSON where it is."""
    try:
        yield from compare_json("", json.loads(old), json.loads(new), tidied)
    except ValueError:
        yield from compare_text(tidied[0](old), tidied[1](new))


class Side(NamedTuple):
    """A checkout and the folder its commands run in."""

    checkout: Checkout
    folder: Path

    def tidy(self, text: str) -> str:
        """Text without this side's places, times and versions."""
        text = tidy(text, self.folder, self.checkout.root)
        for pattern, said in REWORDED if self.checkout.is_old else ():
            text = re.sub(pattern, said, text)
        return text


class Ran(NamedTuple):
    """One command that ended."""

    code: int
    files: Snapshot
    """The files it wrote with their checksums, "" for one that it took away."""
    kept: Path
    """The files that it wrote, as it left them."""


def run_one(side: Side, command: Command, before: Snapshot) -> tuple[Ran, Snapshot]:
    """Run one command, and keep what it wrote; also every file that is there afterwards."""
    if command.name == "apply":
        write_decisions(side.folder)
    argv = side.checkout.spell(side.folder, command.tokens)
    name = command.name.replace(" ", "-")
    code = side.checkout.send(side.folder, name, argv=argv, kill=command.kill)
    after, kept = snapshot(side.folder), side.checkout.logs / f"files-{name}"
    for file in changed(before, after):
        if file in after:
            (kept / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(side.folder / file, kept / file)
    return Ran(code, {f: after.get(f, "") for f in changed(before, after)}, kept), after


def write_decisions(folder: Path) -> None:
    """What a person might have decided on the page of the run `first`."""
    if not (folder / "first" / "scores.parquet").is_file():
        return
    table = pq.read_table(folder / "first" / "scores.parquet", columns=["row", "path"]).to_pydict()
    with open(folder / "decisions.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("row", "path", "sha256", "decision", "new_label"))
        places = sorted(zip(table["path"], table["row"], strict=True))
        for number, (path, row) in enumerate(places[:9]):
            decision = ("keep", "remove", "relabel")[number % 3]
            label = "house" if decision == "relabel" else ""
            content = _checksum(folder / "photos" / path)
            writer.writerow((row, path, content, decision, label))


def written(ran: Ran) -> dict[str, Path]:
    """The files that a command wrote, saved hits by the vectors that they belong to.

    Their names are digests of the index's manifest too, which may have other keys.
    """
    names = {}
    for file in (file for file, checksum in ran.files.items() if checksum):
        name, path = file, ran.kept / file
        if path.parent.name == "hits":
            about = json.loads(path.with_suffix(".json").read_text())
            digest = f"{about['vectors'][:12]}-{about['k']}-{about['captions']}"
            name = f"{Path(file).parent.as_posix()}/<{digest}>{path.suffix}"
        names[name] = path
    return names


def differences(
    sides: tuple[Side, Side], old: Ran, new: Ran, command: Command
) -> Iterator[Difference]:
    """Everything that one command did differently in the two checkouts."""
    name = command.name
    if old.code != new.code:
        yield Difference(name, "exit status", "", f"{old.code} became {new.code}")
    if old.code != command.code:
        yield Difference(name, "exit status", "old", f"{old.code} where {command.code} was meant")
    if command.kill:
        return
    tidied = (sides[0].tidy, sides[1].tidy)
    log = name.replace(" ", "-")
    for stream in ("stdout", "stderr"):
        texts = [
            (side.checkout.logs / f"{log}.{stream}").read_text(encoding="utf-8", errors="replace")
            for side in sides
        ]
        for key, what in compare_streams(*texts, tidied):
            yield Difference(name, stream, key, what)
    one, two = (written(ran) for ran in (old, new))
    for file in sorted({*one, *two}):
        there = [file in names for names in (one, two)]
        if all(there):
            for key, what in compare_files(one[file], two[file], tidied):
                yield Difference(name, file, key, what)
        else:
            which = ("old", "new")[there.index(True)]
            yield Difference(name, file, "", f"written by the {which} alone")


def real_data(folder: Path, data: Path) -> None:
    """A few real embeddings and photographs, laid out as the test data has them."""
    real = data / "real"
    texts = pq.read_table(real / "texts/photo-of-a/metadata/metadata_0.parquet")
    vectors = np.load(real / "texts/photo-of-a/text_emb/text_emb_0.npy")
    captions = texts["caption"].to_pylist()
    labels = pq.read_table(real / "caltech101/val/metadata/metadata_0.parquet")["label"].to_pylist()
    usable = [n for n in dict.fromkeys(labels) if f"a photo of a {n}" in captions][:8]
    own = [captions.index(f"a photo of a {name}") for name in usable]
    rows = sorted({*range(600), *own})
    _write_embeddings(folder / "emb/texts", "text", vectors[rows], texts.take(rows))
    for part, each in (("val", 9), ("test", 10)):
        table = pq.read_table(real / f"caltech101/{part}/metadata/metadata_0.parquet")
        have = np.array(table["label"].to_pylist())
        others = [] if part == "val" else np.flatnonzero(~np.isin(have, usable))[:20].tolist()
        rows = sorted(others + [r for n in usable for r in np.flatnonzero(have == n)[:each]])
        images = np.load(real / f"caltech101/{part}/img_emb/img_emb_0.npy")
        _write_embeddings(folder / f"emb/{part}", "img", images[rows], table.take(rows))
    for place in sorted((real / "caltech101/val/images").iterdir())[:10]:
        (folder / "caltech" / place.name).mkdir(parents=True)
        for picture in sorted(place.iterdir())[:6]:
            shutil.copyfile(picture, folder / "caltech" / place.name / picture.name)
    shutil.copytree(
        data / "texts/flickr8k-dataset", folder / "flickr", copy_function=shutil.copyfile
    )


def _write_embeddings(folder: Path, kind: str, rows: np.ndarray, table: pa.Table) -> None:
    for below in (f"{kind}_emb", "metadata"):
        (folder / below).mkdir(parents=True)
    np.save(folder / f"{kind}_emb" / f"{kind}_emb_0.npy", rows)
    pq.write_table(table, folder / "metadata" / "metadata_0.parquet")


def copies(folder: Path, work: Path, phase: str) -> tuple[Path, Path]:
    """The folder twice: paths of the same length, as lines are wrapped by them."""
    made = tuple(work / f"{side}-{phase}" / "here" for side in ("old", "new"))
    for place in made:
        shutil.copytree(folder, place, symlinks=True)
        if (folder.parent / "cache").is_dir():
            shutil.copytree(folder.parent / "cache", place.parent / "cache")
    return made[0], made[1]


def commit_of(checkout: Path) -> str:
    """Its commit, and whether files differ from it."""
    words = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--exclude=*"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("old", type=Path, help="the checkout to compare with, its .venv made")
    parser.add_argument("--new", type=Path, default=HERE.parent, help="[default: this one]")
    parser.add_argument("--only", default="*", help="only commands of these names: 'index*,audit*'")
    parser.add_argument("--keep", type=Path, help="keep all files in this new folder")
    parser.add_argument("--record", action="store_true", help="write results/same_outputs.txt")
    chosen = parser.parse_args()
    lines: list[str] = []

    def say(line: str = "") -> None:
        print(line, flush=True)
        lines.append(line)

    data, start = os.environ.get("BLISS_TEST_DATA"), time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        work = (chosen.keep or Path(temporary)).resolve()
        work.mkdir(exist_ok=True)
        say("same_outputs: the same commands in two checkouts, every output compared")
        say(f"  old: {commit_of(chosen.old)}, new: {commit_of(chosen.new)}")
        checkouts = [
            Checkout(root, work / f"{name}-logs", name == "old")
            for name, root in (("old", chosen.old), ("new", chosen.new))
        ]
        try:
            unintended = run_all(checkouts, work, data, chosen.only, say)
        finally:
            for checkout in checkouts:
                checkout.close()
    print(f"  {time.monotonic() - start:.0f} s")
    if chosen.record:
        (HERE / "results" / "same_outputs.txt").write_text("\n".join(lines) + "\n")
    return int(unintended > 0)


def run_all(
    checkouts: list[Checkout], work: Path, data: str | None, only: str, say: Callable[[str], None]
) -> int:
    """Both phases; the number of differences that nothing explains."""
    base = work / "data" / "here"
    base.mkdir(parents=True)
    if code := checkouts[0].send(base, "data", code=MAKE_DATA):
        print((checkouts[0].logs / "data.stderr").read_text(), file=sys.stderr)
        raise SystemExit(f"the data could not be made: exit status {code}")
    if data:
        real_data(base, Path(data))
    else:
        say("  BLISS_TEST_DATA is not set: the commands on real data are left out")
    total, unintended, source = 0, 0, base
    for phase, commands in (("fresh", COMMANDS), ("later", LATER)):
        chosen = tuple(
            one
            for one in commands
            if any(fnmatch(one.name, pattern) for pattern in only.split(","))
            and (data or not one.real)
        )
        folders = copies(source, work, phase)
        sides = (Side(checkouts[0], folders[0]), Side(checkouts[1], folders[1]))
        before = [snapshot(folder) for folder in folders]
        say("" if phase == "fresh" else "\nwhat the old checkout left, opened and resumed by both")
        for command in chosen:
            with ThreadPoolExecutor(2) as pool:
                (old, one), (new, two) = pool.map(run_one, sides, [command] * 2, before)
            before = [one, two]
            found = list(differences(sides, old, new, command))
            bad = [each for each in found if each.intended is None]
            outcome = "DIFFERENT" if bad else "intended" if found else "same"
            files = sum(map(bool, old.files.values()))
            say(f"  {outcome:9} {command.name} (exit status {old.code}, {files} files)")
            for each in bad:
                say(f"      {each.file}{f': {each.key}' if each.key else ''}: {each.what}")
            for why, count in Counter(each.intended for each in found if each.intended).items():
                say(f"      {count} intended: {why}")
            total, unintended = total + 1, unintended + len(bad)
        source = folders[0]
    say(f"\n{total} commands; {unintended} differences that were not intended")
    return unintended


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main())

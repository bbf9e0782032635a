"""`bliss eval` from embedding folders and from image folders: its whole output, its options."""

import json
import re

import numpy as np
import pytest
from blissaudit.cli import run
from blissaudit.demo.scenes import render_scene, sample_scene
from blissaudit.evaluation.metrics import auroc
from blissaudit.indexer.encode.encoder import ModelChoice
from blissaudit.indexer.encode.open_clip import load_encoder
from blissaudit.indexer.images.embedded import read_image_embeddings
from blissaudit.indexer.vectors.unit_rows import normalise_rows
from helpers import small_worlds as small

NAMES = ("ant", "bee", "cat", "dog")
PROMPT = "This is a photo of a {}"

write_embeddings = small.write_embeddings


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Four classes around their prompts, an outlier set, and an index with the prompts in it."""
    folder = tmp_path_factory.mktemp("eval")
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((4, 16))
    for name, each in (("clean", 9), ("test", 8)):
        rows = np.repeat(centres, each, axis=0) + 1.2 * rng.standard_normal((4 * each, 16))
        labels = np.repeat(NAMES, each).tolist()
        paths = [f"{name}/{row}" for row in range(len(rows))]
        write_embeddings(folder / name, "img", rows, image_path=paths, label=labels)
    write_embeddings(
        folder / "far",
        "img",
        rng.standard_normal((12, 16)),
        image_path=[str(row) for row in range(12)],
    )
    texts = np.vstack([centres, rng.standard_normal((40, 16))])
    captions = [PROMPT.format(name) for name in NAMES] + [f"text {row}" for row in range(40)]
    write_embeddings(folder / "texts", "text", texts, caption=captions)
    made = ["--embeddings", str(folder / "texts"), "-o", str(folder / "index")]
    assert run(["index", "build", *made]) == 0
    return folder


def call(world, *more, output="out"):
    return [
        "eval",
        *("--reference", str(world / "clean"), "--test", str(world / "test")),
        *("--index", str(world / "index"), "-o", str(world / output), "--protocol", "random-2"),
        *("--score", "bliss", "--score", "maximum_cosine", "--overwrite", *more),
    ]


def evaluated(world, *more, output="other"):
    assert run(call(world, *more, output=output)) == 0
    return json.loads((world / output / "eval.json").read_text())


def test_an_evaluation_is_not_replaced_by_another_unless_asked(world, capsys):
    options = [each for each in call(world, "--k", "3", output="kept") if each != "--overwrite"]
    assert run(options) == run(options) == 0
    before = (world / "kept" / "eval.json").read_bytes()
    assert run([*options, "--draws", "2"]) == 2
    assert "with other options (draws differ). Needed: the same" in capsys.readouterr().err
    assert (world / "kept" / "eval.json").read_bytes() == before
    assert run([*options, "--draws", "2", "--overwrite"]) == 0


def test_the_same_folders_under_other_names_are_the_same_evaluation(world, monkeypatch, capsys):
    options = [each for each in call(world, output="named") if each != "--overwrite"]
    assert run(options) == 0
    monkeypatch.chdir(world)
    near = [each.removeprefix(f"{world}/") for each in options]
    assert near != options and run(near) == 0, capsys.readouterr().err
    near[near.index("test")] = "clean"
    assert run(near) == 2
    assert "(test differ)" in capsys.readouterr().err


@pytest.fixture(scope="module")
def usual(world):
    return evaluated(world, output="usual")


OUTPUT = """\
random-2: 10 draws, seed 0, 2 normal classes, 18 reference and 32 test images a draw, \
50.0 % anomalies

| score | auroc | auroc_worst | gain | fpr95_id | fpr95_ood | aupr_in | aupr_out | precision \
| recall | fdp | fdp_bh | power_bh | seconds | peak_mib |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
ROWS

no fdp_bh of any score: 2 reference images were held out in draw 1, and fewer than 19 cannot flag \
all its anomalies at 0.1
All of it: WORLD/out/eval.json
"""


def test_the_whole_output(world, capsys):
    assert run(call(world, "--baseline", "bliss")) == 0
    shown = capsys.readouterr()
    rows = [
        line for line in shown.out.splitlines() if re.match(r"\| (bliss|maximum_cosine) ", line)
    ]
    expected = OUTPUT.replace("ROWS", "\n".join(rows)).replace("WORLD", str(world))
    assert shown.out == expected
    table = json.loads((world / "out" / "table.json").read_text())
    for line, row in zip(rows, table, strict=True):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[0] == row["score"]
        assert cells[1] == (
            f"{100 * row['auroc']:.2f} "
            f"[{100 * row['auroc_low']:.2f}, {100 * row['auroc_high']:.2f}]"
        )
        assert cells[10] == f"{100 * row['fdp']:.2f}"
    assert len(rows) == 2
    assert shown.err.splitlines()[-1].startswith("scores evaluated: 2 of 2")


def test_rscin_is_stateful_in_the_table(world, capsys):
    assert run(call(world, "--score", "bliss+rscin")) == 0
    shown = capsys.readouterr().out
    assert "bliss+rscin looks at the other test images too" in shown
    assert "no fdp_bh of bliss+rscin: it looks at the other test images, so p-values do n" in shown


def test_json_is_the_table(world, capsys):
    assert run(call(world, "--json")) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(
        (world / "out" / "table.json").read_text()
    )


def without_times(facts):
    for row in facts["table"]:
        row["seconds"] = row["peak_mib"] = 0
    return facts


def test_the_same_request_gives_the_same_numbers(world, usual):
    assert without_times(evaluated(world)) == without_times(usual)


@pytest.mark.parametrize(
    "more",
    [
        ("--draws", "4"),
        ("--seed", "5"),
        ("--shots", "3"),
        ("--contamination", "0.2"),
        ("--k", "3"),
        ("--normal", "ant", "--normal", "bee", "--normal", "cat"),
        ("--class-prompt", "ant=text 3"),
        ("--ood", "far=FAR"),
        ("--score", "knn:k=2"),
        ("--score", "bliss+rscin"),
        (
            "--prompt",
            "text {}",
            "--class-prompt",
            "ant=text 1",
            "--normal",
            "ant",
            "--normal",
            "bee",
        )
        + ("--class-prompt", "bee=text 2"),
        ("--protocol", "one-class"),
        ("--protocol", "leave-one-out"),
        ("--protocol", "random-3"),
        ("--baseline", "maximum_cosine"),
    ],
)
def test_every_option_changes_the_result(world, usual, more):
    more = [part.replace("FAR", str(world / "far")) for part in more]
    found = without_times(evaluated(world, *more))
    assert found["table"] != without_times(usual)["table"]


def test_a_protocol_file_and_shots_all(world, usual):
    (world / "mine.json").write_text(
        json.dumps({"choice": "random", "size": 2, "draws": 10, "shots": 2})
    )
    mine = ("--protocol", str(world / "mine.json"))
    few = evaluated(world, *mine)
    assert few["protocol"]["shots"] == 2 and few["draws"][0]["reference"] == 4
    whole = evaluated(world, *mine, "--shots", "all")
    assert without_times(whole)["table"] == without_times(usual)["table"]


def test_eval_json_says_what_repeats_it(world, usual):
    assert usual["kind"] == "evaluation" and usual["k"] == 10
    assert set(usual["sets"]) == {"reference", "test"}
    assert usual["sets"]["test"]["images"] == 32 and len(usual["sets"]["test"]["sha256"]) == 64
    assert usual["scores"]["bliss"]["parameters"] == {"weight": 0.5}
    assert usual["protocol"]["seed"] == 0 and usual["libraries"]["numpy"]
    assert usual["index"]["count"] == 44 and usual["index"]["checksums"]


def test_every_score_of_the_registry_runs_or_says_why_not(world):
    from blissaudit.scorer.scores.registry import SCORES

    arguments = call(world, output="all")
    assert run(arguments[: arguments.index("--score")]) == 0
    facts = json.loads((world / "all" / "eval.json").read_text())
    assert set(facts["scores"]) | set(facts["skipped"]) == set(SCORES)
    trained = {name for name, score in SCORES.items() if score.trained}
    assert trained <= set(facts["skipped"]) <= {"clip_ad", *trained}


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (("--protocol", "nothing"), 2, "the protocol 'nothing' was asked for"),
        (("--score", "nothing"), 2, "the score 'nothing' was asked for"),
        (("--baseline", "nothing"), 2, "the baseline 'nothing' is not among the scores"),
        (("--shots", "few"), 2, "--shots few was given"),
        (("--contamination", "0.5"), 2, "has contamination 0.5"),
        (("--ood", "test=x"), 2, "--ood test=x was given"),
        (
            ("--class-prompt", "yak=text 3"),
            2,
            "--class-prompt names yak. Needed: classes of the reference",
        ),
        (("--normal", "yak"), 2, "names yak, which the reference set does not have"),
        (("--shots", "50"), 1, "has 9 reference images. Needed: at least 50"),
        (("--ood", "far=CLEAN"), 1, "the outlier set 'far' overlaps the normal images"),
        (("--protocol", "openood-cifar10"), 2, "the reference set has 4 classes. Needed: 10"),
    ],
)
def test_a_request_that_cannot_be_met(world, more, code, message, capsys):
    more = [part.replace("CLEAN", str(world / "clean")) for part in more]
    assert run(call(world, *more)) == code
    assert message in capsys.readouterr().err


def clip_ad_by_hand(images, prompts, something):
    """Share of "a photo of something" in the softmax of 100 cosines, in float64."""
    logits = 100 * images.astype(float) @ np.vstack([prompts, something[None]]).T.astype(float)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights[:, -1] / weights.sum(axis=1)


def check_clip_ad(facts, tested):
    """CLIP-AD's AUROC in every draw, with the texts embedded by the model that embeds images."""
    encoder = load_encoder(ModelChoice("demo", device="cpu"))
    sets = read_image_embeddings(tested)
    something = encoder.encode_texts(["a photo of something"])[0]
    for draw, values in zip(facts["draws"], facts["scores"]["clip_ad"]["values"], strict=True):
        prompts = encoder.encode_texts([f"This is a photo of a {name}" for name in draw["normal"]])
        scores = clip_ad_by_hand(sets.vectors, prompts, something)
        anomalous = np.array([label not in draw["normal"] for label in sets.labels])
        assert values[0][0] == pytest.approx(auroc(scores, anomalous))


def test_clip_ad_takes_its_text_from_the_index_where_there_is_no_model(world, capsys):
    rng = np.random.default_rng(1)
    rows = np.load(world / "texts" / "text_emb" / "text_emb_0.npy")
    extra = normalise_rows(rng.standard_normal((1, 16))).unit
    captions = [PROMPT.format(name) for name in NAMES] + [f"text {row}" for row in range(40)]
    made = np.vstack([rows, extra])
    write_embeddings(world / "more", "text", made, caption=[*captions, "a photo of something"])
    index = str(world / "with-something")
    assert run(["index", "build", "--embeddings", str(world / "more"), "-o", index]) == 0
    arguments = call(world, output="something")[: call(world).index("--score")]
    arguments[arguments.index("--index") + 1] = index
    assert run([*arguments, "--score", "clip_ad"]) == 0
    facts = json.loads((world / "something" / "eval.json").read_text())
    tested = read_image_embeddings(world / "test")
    for draw, values in zip(facts["draws"], facts["scores"]["clip_ad"]["values"], strict=True):
        prompts = rows[[NAMES.index(name) for name in draw["normal"]]]
        scores = clip_ad_by_hand(tested.vectors, prompts, extra[0])
        anomalous = np.array([label not in draw["normal"] for label in tested.labels])
        assert values[0][0] == pytest.approx(auroc(scores, anomalous), abs=1e-3)
    bare = call(world, output="bare")
    assert run([*bare[: bare.index("--score")], "--score", "clip_ad"]) == 2
    assert "clip_ad was used without its additional text" in capsys.readouterr().err


def test_image_folders_with_the_demo_model(tmp_path, capsys):
    rng = np.random.default_rng(3)
    for part, each in (("clean", 4), ("test", 3)):
        for kind in ("cup", "key", "tree"):
            (tmp_path / part / kind).mkdir(parents=True)
            for number in range(each):
                picture = render_scene(sample_scene(rng, kind), 96)
                picture.save(tmp_path / part / kind / f"{number}.png")
    (tmp_path / "test" / "cup" / "broken.png").write_bytes(b"no picture")
    (tmp_path / "words.txt").write_text(
        "\n".join(f"a photo of a {w}" for w in ("dog", "car", "hat"))
    )
    index, words = str(tmp_path / "index"), str(tmp_path / "words.txt")
    assert run(["index", "build", words, "-o", index, "--model", "demo"]) == 0
    arguments = [
        *("eval", "--reference", str(tmp_path / "clean"), "--test", str(tmp_path / "test")),
        *("--index", index, "--protocol", "leave-one-out", "-o", str(tmp_path / "out")),
        *("--k", "2", "--workers", "1", "--score", "bliss", "--score", "clip_ad"),
    ]
    assert run(arguments) == 0
    out = capsys.readouterr().out
    assert "leave-one-out: 3 draws" in out and "| bliss |" in out and "| clip_ad |" in out
    facts = json.loads((tmp_path / "out" / "eval.json").read_text())
    assert facts["sets"]["test"]["failures"] == 1 and facts["model"]["weights_sha256"]
    check_clip_ad(facts, tmp_path / "out" / "sets" / "test")
    assert run([*arguments, "--fail-on", "unreadable=0"]) == 3
    assert "1 image could not be read" in capsys.readouterr().err

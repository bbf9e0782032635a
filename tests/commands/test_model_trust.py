"""Models that artefacts name: nothing foreign is loaded, fetched or run on their word alone."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from blissaudit.errors import BlissError, ModelNotNamed, UsageError
from blissaudit.indexer.encode.choosing import (
    check_config,
    named_repository,
    needed_packages,
    package_of,
)
from blissaudit.indexer.encode.encoder import ModelChoice, demo_model
from blissaudit.indexer.encode.trust import model_named_by, remember_model

HUB = "hf-hub:stranger/model"
DEMO = Path(demo_model().removeprefix("local-dir:"))
CONFIG = "open_clip_config.json"
TRANSFORMERS = """
import json, pathlib
class AutoTokenizer:
    @staticmethod
    def from_pretrained(name, **given):
        with open(pathlib.Path(__file__).with_name("called"), "a") as file:
            file.write(json.dumps([str(name), given.get("trust_remote_code")]) + "\\n")
        raise RuntimeError("the stand-in holds no tokenizer")
"""


def naming(made: Path, target: Path, model: str, pretrained: str | None = None) -> Path:
    """A copy of `made` whose artefacts name another model."""
    shutil.copytree(made, target)
    for path in (*target.glob("*/manifest.json"), *target.glob("*/run.json")):
        facts = json.loads(path.read_text())
        facts["model"].update(model=model, pretrained=pretrained)
        path.write_text(json.dumps(facts))
    evaluation = target / "eval" / "eval.json"
    facts = json.loads(evaluation.read_text())
    facts["asked"].update(model=model, allow_torchscript=True, index=[str(target / "index")])
    if pretrained:
        facts["asked"]["pretrained"] = pretrained
    evaluation.write_text(json.dumps(facts))
    return target


def test_no_command_contacts_what_only_an_artefact_names(
    commands, hub, made, collection, captions, tmp_path
):
    there = naming(made, tmp_path / "there", HUB)
    index, picture = there / "index", next(collection.glob("*/*.png"))
    run, reference, out = there / "run", there / "reference", tmp_path / "out"
    refused = [
        ("audit", collection, "--index", index, "-o", out),
        ("audit", collection, "--reference", reference, "-o", out),
        ("find", run, "--text", "a boat"),
        ("find", run, "--image", picture),
        ("score", picture, "--reference", reference, "--index", index),
        ("index", "search", index, "--text", "it's a $(boat)"),
        ("index", "tune", index, "--images", collection),
        ("index", "verify", index, "--embed", 2),
        ("index", "add", index, captions),
        ("index", "remove", index, "--like", "a boat", "--above", 0.9),
        ("corpora", "compare", collection, "--index", index, "--index", made / "index"),
        ("reference", "fit", "--index", index, "-o", out, "--", collection),
        ("eval", "--from", there / "eval" / "eval.json", "-o", out),
    ]
    served = [
        ("index", "info", index),
        ("index", "verify", index),
        ("report", run),
        ("find", run, "--image", "boat/1.png"),
    ]
    answers = commands([*refused, *served])
    for command, answer in zip(refused, answers, strict=False):
        words = ["bliss", *map(str, command)]
        end = words.index("--") if "--" in words else len(words)
        again = shlex.join([*words[:end], "--model", HUB, *words[end:]])
        assert answer.code == 2, (command, answer)
        assert f" names the model {HUB}, which you have not named on this" in answer.err, answer
        assert answer.err.endswith(f"If you trust it, run: {again}\n"), answer.err
    for command, answer in zip(served, answers[len(refused) :], strict=True):
        assert answer.code == 0, (command, answer)
    assert hub.requests == []


def test_a_config_that_asks_for_code_is_refused_and_nothing_runs(commands, made, hub, tmp_path):
    packages = tmp_path / "packages" / "transformers"
    packages.mkdir(parents=True)
    (packages / "__init__.py").write_text(TRANSFORMERS)

    def model(name: str, **text: object) -> str:
        folder = shutil.copytree(DEMO, tmp_path / name)
        config = json.loads((folder / CONFIG).read_text())
        config["model_cfg"]["text_cfg"].update(text)
        (folder / CONFIG).write_text(json.dumps(config))
        return f"local-dir:{folder}"

    tokenizer = {"hf_tokenizer_name": "stranger/code"}
    runs = model("runs", **tokenizer, tokenizer_kwargs={"trust_remote_code": True})
    plain = model("plain", **tokenizer, tokenizer_kwargs={"clean": "lower"})
    tower = model("tower", hf_model_name="stranger/tower")
    index = naming(made, tmp_path / "there", runs) / "index"
    search = ("index", "search", index, "--text", "a boat")
    lines = [search, *((*search, "--model", each) for each in (runs, plain, tower)), search]
    lines.append((*search, "--model", HUB))
    answers = commands(lines, PYTHONPATH=str(packages.parent))
    assert [answer.code for answer in answers] == [2, 2, 1, 2, 2, 1]
    assert f"names the model {runs}, which you have not named" in answers[0].err
    for answer in (answers[1], answers[4]):  # named by now, and still refused
        assert "asks for the tokenizer argument trust_remote_code, which would run" in answer.err
        assert "Needed: none but clean, language, strip_sep_token" in answer.err
    assert "the stand-in holds no tokenizer" in answers[2].err
    assert "names another repository, stranger/tower, as text_cfg.hf_model_name" in answers[3].err
    called = (packages / "called").read_text().splitlines()
    assert [json.loads(line) for line in called] == [[plain.removeprefix("local-dir:"), False]]
    asked = [line for line in hub.requests if "/stranger/" in line]
    assert asked and all("/stranger/model/" in line for line in asked)  # what was named, no other


def test_a_model_named_once_is_loaded_again_until_it_changes(bliss, made, named_models, tmp_path):
    folder = shutil.copytree(DEMO, tmp_path / "my model")
    model = f"local-dir:{folder}"
    index = naming(made, tmp_path / "there", model) / "index"
    search = ("index", "search", index, "--text", "a boat")
    assert bliss(*search).code == 2
    assert not named_models.parent.exists()
    assert bliss(*search, "--model", "demo").code == 0
    assert not named_models.parent.exists()  # only foreign models are remembered
    assert bliss(*search, "--model", model).code == 0
    assert named_models.read_text().startswith(f"{model}\t")
    assert bliss(*search).code == 0
    (folder / CONFIG).write_text((folder / CONFIG).read_text() + "\n")
    changed = bliss(*search)
    assert changed.code == 2
    assert f"names the model {model}, which has changed since you named it" in changed.err
    assert bliss(*search, "--model", model).code == 0
    assert len(named_models.read_text().splitlines()) == 1
    named_models.write_text("")
    assert bliss(*search).code == 2


def test_what_the_file_of_from_names_is_not_the_users_word(bliss, made, named_models, tmp_path):
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"not read")
    there = naming(made, tmp_path / "there", "ViT-B-32", str(weights))
    command = ("eval", "--from", there / "eval" / "eval.json", "-o", tmp_path / "out")
    for line in (command, (*command, "--model", "ViT-B-32")):
        answer = bliss(*line)
        assert answer.code == 2
        assert f"the evaluation to repeat names weights {weights} for ViT-B-32" in answer.err
        assert answer.err.endswith(f"--model ViT-B-32 --pretrained {weights}\n")
    assert not named_models.exists()


def test_a_home_that_cannot_be_written_breaks_no_run(bliss, made, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    model = f"local-dir:{shutil.copytree(DEMO, tmp_path / 'model')}"
    search = ("index", "search", made / "index", "--text", "a boat", "--model", model)
    monkeypatch.setenv("BLISS_CONFIG", str(tmp_path / "file"))
    answer = bliss(*search)
    assert answer.code == 0
    assert "could not remember that you named this model: " in answer.err
    monkeypatch.delenv("BLISS_CONFIG")
    monkeypatch.setenv("XDG_CONFIG_HOME", "")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # no HOME and no account
    answer = bliss(*search)
    assert answer.code == 0
    assert (
        "could not remember that you named this model: this user has no home folder to keep files "
        "in. " in answer.err
    )
    assert not (Path.cwd() / "~").exists()


@pytest.mark.parametrize(
    ("model", "pretrained"),
    [
        ("hf-hub:a/b", None),
        ("local-dir:relative", None),
        ("ViT-B-32", "weights.pt"),
        ("ViT-B-32", "no-such-tag"),
    ],
)
def test_foreign_models_need_the_users_word(named_models, model, pretrained):
    facts = {"model": model, "pretrained": pretrained}
    with pytest.raises(ModelNotNamed, match=r"folder names .* you have not named on this machine"):
        model_named_by(ModelChoice(), facts, "folder")


def test_models_that_come_with_open_clip_need_none(named_models):
    for model, pretrained in (("demo", None), ("ViT-B-32", "openai"), ("ViT-B-16", None)):
        facts = {"model": model, "pretrained": pretrained}
        assert model_named_by(ModelChoice(), facts, "x") == ModelChoice(model, pretrained)
        remember_model(model, pretrained)
    assert not named_models.exists()


def test_weights_files_are_known_by_path_and_content(named_models, tmp_path):
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"one")
    facts = {"model": "ViT-B-32", "pretrained": str(weights)}
    remember_model(**facts)
    assert model_named_by(ModelChoice(), facts, "x").pretrained == str(weights)
    with pytest.raises(ModelNotNamed, match=r"names weights .* you have not named"):
        model_named_by(ModelChoice(), {**facts, "model": "ViT-B-16"}, "x")
    weights.write_bytes(b"other")
    with pytest.raises(ModelNotNamed, match="has changed since you named it"):
        model_named_by(ModelChoice(), facts, "x")


def test_a_manifest_without_a_model_name_is_one_plain_error(named_models):
    for facts in ({"model": ["demo"]}, {"model": "demo", "pretrained": 3}):
        with pytest.raises(BlissError, match="the manifest of x does not name its model with text"):
            model_named_by(ModelChoice(), facts, "x")


def test_python_is_told_the_call_and_not_a_command():
    error = ModelNotNamed("x names y", "a word", ("--model", "ViT-B-32", "--pretrained", "w.pt"))
    assert str(error).endswith("If you trust it, pass ModelChoice('ViT-B-32', 'w.pt').")


def test_a_clipn_is_no_word_for_its_model_either(named_models, monkeypatch, tmp_path):
    from blissaudit.training.clipn_tower import no_vectors

    monkeypatch.setenv("BLISS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "manifest.json").write_text("{}")
    facts = {"model": HUB, "pretrained": None, "dimension": 4, "weights_sha256": "0"}
    clipn = SimpleNamespace(folder=tmp_path, model=facts)
    with pytest.raises(ModelNotNamed, match=f"names the model {HUB}"):
        no_vectors(clipn, [["a cup"]], facts, ModelChoice())


def config(**text: object) -> dict:
    return {"embed_dim": 4, "vision_cfg": {}, "text_cfg": text}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (config(tokenizer_kwargs={"bpe_path": "x"}), "asks for the tokenizer argument bpe_path"),
        (config(tokenizer_kwargs={"reduction_mask": "syntax"}), "argument reduction_mask"),
        (config(tokenizer_kwargs={"strip_sep_token": "no"}), "a value of type bool"),
        (config(tokenizer_kwargs=["clean"]), "no object as tokenizer_kwargs"),
        (config(hf_tokenizer_name="other/x"), "another repository, other/x, as text_cfg.hf_tok"),
        (config(hf_model_name="me/../other"), r"another repository, me/\.\./other"),
        ({"vision_cfg": {"timm_model_name": "hf-hub:other/x"}}, "as its timm model"),
        ({"multimodal_cfg": {"hf_model_name": "other/x"}}, "as multimodal_cfg.hf_model_name"),
        ({"text_cfg": "x"}, "no object as text_cfg"),
        ([], "holds no object"),
    ],
)
def test_what_a_config_may_not_ask_for(asked, message):
    with pytest.raises(UsageError, match=message):
        check_config("hf-hub:me/model", asked, {"roberta-base"}, lambda name: False)


def test_what_a_config_may_ask_for(named_models):
    for text in (
        {"tokenizer_kwargs": {"clean": "canonicalize", "strip_sep_token": True}},
        {"hf_tokenizer_name": "me/tokens", "hf_model_name": "me/tower"},
        {"hf_tokenizer_name": "roberta-base"},
    ):
        check_config("hf-hub:me/model", config(**text), {"roberta-base"}, lambda name: False)
    check_config("local-dir:x", config(hf_tokenizer_name="a/b"), (), lambda name: False)
    named_models.parent.mkdir()
    named_models.write_text("hf-hub:a/b\n")
    check_config("local-dir:x", config(hf_model_name="a/b"), (), named_repository)


def test_open_clips_own_configs_hold_only_what_is_allowed():
    import open_clip
    from blissaudit.indexer.encode.open_clip import _own_repositories

    for name in open_clip.list_models():
        own = open_clip.get_model_config(name)
        check_config(f"hf-hub:me/{name}", own, _own_repositories(), lambda name: False)


def test_a_missing_package_is_named(bliss, captions, named_models, tmp_path):
    folder = shutil.copytree(DEMO, tmp_path / "model")
    facts = json.loads((folder / CONFIG).read_text())
    facts["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = "any"
    (folder / CONFIG).write_text(json.dumps(facts))
    answer = bliss("index", "build", captions, "--model", f"local-dir:{folder}", "-o", tmp_path)
    if needed_packages(facts["model_cfg"]):  # as here, where transformers is not installed
        assert answer.code == 1
        assert "needs the package transformers, which is not installed" in answer.err
        assert answer.err.endswith("Run python -m pip install transformers.\n")


def test_packages_are_found_in_what_libraries_raise():
    assert package_of(ModuleNotFoundError("x", name="google.protobuf.message")) == "protobuf"
    assert package_of(ModuleNotFoundError("x", name="tiktoken")) == "tiktoken"
    vague = ValueError("you need to have sentencepiece or tiktoken installed to convert")
    outer = RuntimeError("could not load")
    outer.__cause__ = vague
    assert package_of(outer) == "sentencepiece"
    assert package_of(ValueError("the checksum differs")) is None


def test_the_list_is_never_split_by_a_name(named_models):
    remember_model("hf-hub:a/b\nhf-hub:c/d", None)
    assert not named_models.exists()
    assert not any(named_repository(name) for name in ("a/b", "c/d"))

"""Load open_clip models and make Encoders of them: the only home of torch and open_clip."""

from __future__ import annotations

import copy
import gc
import hashlib
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import numpy as np

# A thread of torch's that waits would spin on a core that a decoding worker could use. OpenMP reads
# this when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

try:  # nothing that these imports make is garbage: looking for some is a sixth of their time
    collecting = gc.isenabled()
    gc.disable()
    import open_clip
    import torch
    from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH, HFTokenizer
finally:
    if not gc.get_freeze_count():
        gc.freeze()
        gc.unfreeze()  # all objects are now in the oldest generation, without a look at them
    if collecting:
        gc.enable()

from ...arguments import checked
from ...errors import BlissError, UsageError
from .choosing import (
    FOLDER,
    HUB,
    check_config,
    is_torchscript,
    named_repository,
    needed_packages,
    not_installed,
    package_of,
    resolve_model,
    weight_files,
)
from .encoder import (
    CAST_BF16,
    CellMap,
    Encoder,
    ModelChoice,
    Preprocessing,
    Through,
    TokenizerRecipe,
)
from .tokens import (
    Tokenise,
    cut_by,
    encode_by_length,
    recall_truncation,
    remember_truncation,
    simple_tokeniser,
    tokeniser_of,
    trial_captions,
)

TRUNCATION_TOLERANCE = 1e-5
"""Largest |Δ| of a unit vector's entries for which shorter input counts as exact."""


@checked
def load_encoder(choice: ModelChoice) -> Encoder:
    """The encoder for a model choice; errors as of `load_model`."""
    return encoder_of_model(load_model(choice))


def encoder_of_model(loaded: LoadedModel) -> Encoder:
    """The Encoder of a loaded model."""
    return encoder_of(**vars(loaded))


def encoder_of(
    model: torch.nn.Module,
    tokenizer: Any,
    facts: Mapping[str, Any],
    batch_size: int,
    chosen: str = "",
    statistics: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
) -> Encoder:
    """The Encoder of an open_clip model in memory; `facts` may name it.

    `statistics` are mean and standard deviation per channel; None: the model's own. `model` is not
    changed: the precision `pure_bf16` casts a copy of its weights.
    """
    device = next(model.parameters()).device
    weights = weights_sha256(model)
    preprocessing = _preprocessing(model)
    if statistics is not None:
        preprocessing = replace(preprocessing, mean=statistics[0], std=statistics[1])
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(facts.get("precision", "fp32"))
    autocast = nullcontext if kind is None else partial(torch.autocast, device.type, dtype=kind)
    tokenise, recipe = tokeniser_of(tokenizer)
    pad, context_length = int(tokenise(["a"])[0, -1]), tokenise(["a"]).shape[1]

    def encode_batch(tokens: np.ndarray) -> np.ndarray:
        with torch.inference_mode(), autocast():
            return _unit(_text_features(used, torch.from_numpy(tokens).to(device)))

    def standardised(pixels: np.ndarray) -> torch.Tensor:
        images = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float().div_(255)
        mean = torch.tensor(preprocessing.mean, device=device)[:, None, None]
        std = torch.tensor(preprocessing.std, device=device)[:, None, None]
        return (images - mean) / std

    def encode_images(pixels: np.ndarray) -> np.ndarray:
        with torch.inference_mode(), autocast():
            return _unit(used.encode_image(standardised(pixels).to(dtype)))  # type: ignore[operator]

    def map_cells(pixels: np.ndarray, directions: np.ndarray) -> CellMap:
        from .cells import cell_map

        return cell_map(precise(), standardised(pixels), directions)

    short = recall_truncation(weights)
    if short is None:
        short = truncation_is_exact(model, tokenise(trial_captions(context_length)), pad)
        remember_truncation(weights, short)
    cast = facts.get("precision") == CAST_BF16
    dtype = torch.bfloat16 if cast else torch.float32
    used = _in_dtype(model, dtype) if cast else model

    @cache
    def precise() -> torch.nn.Module:
        """The same weights in float32."""
        return _in_dtype(used, torch.float32) if cast else used

    def encode_tokens(tokens: np.ndarray, through: Through | None = None) -> np.ndarray:
        if not len(tokens):
            return np.zeros((0, dimension), np.float32)
        encode: Callable[[np.ndarray], np.ndarray] = encode_batch
        if through is not None:
            encode = partial(through, encode=encode_batch)
        return encode_by_length(tokens, pad if short else None, encode, batch_size)

    dimension = encode_by_length(tokenise(["a"]), pad if short else None, encode_batch, 1).shape[1]
    complete = {
        "model": None,
        "pretrained": None,
        "precision": "fp32",
        **facts,
        "weights_sha256": weights,
        "dimension": dimension,
        "context_length": context_length,
        "short_captions_exact": short,
        "preprocessing": {
            name: list(value) if isinstance(value, tuple) else value  # as JSON returns it
            for name, value in asdict(preprocessing).items()
        },
    }
    return Encoder(
        facts=complete,
        preprocessing=preprocessing,
        batch_size=batch_size,
        encode_texts=lambda texts: encode_tokens(tokenise(texts)),
        encode_images=encode_images,
        chosen=chosen,
        tokenise=tokenise,
        encode_tokens=encode_tokens,
        is_cut=cut_by(tokenizer, recipe, context_length),
        recipe=recipe,
        map_cells=map_cells,
    )


def truncation_is_exact(model: torch.nn.Module, tokens: np.ndarray, pad: int) -> bool:
    """Whether token rows cut to their own length give the same unit vectors, in float32.

    True for causal towers pooled at end-of-text; False for towers that pool over padding.
    """
    device = next(model.parameters()).device
    try:
        with torch.inference_mode():
            whole = _unit(_text_features(model, torch.from_numpy(tokens).to(device)))
            cut = encode_by_length(
                tokens,
                pad,
                lambda t: _unit(_text_features(model, torch.from_numpy(t).to(device))),
                batch_size=1,
            )
    except (RuntimeError, ValueError, IndexError):
        return False
    return bool(np.abs(whole - cut).max() <= TRUNCATION_TOLERANCE)


def _text_features(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """Text features of token ids [b, L], where L may be below the model's context length.

    For a shorter input the model is called with position embeddings and causal mask cut to L.
    """
    length = tokens.shape[1]
    swapped = {}
    for prefix, tower in (("", model), ("text.", getattr(model, "text", None))):
        position = getattr(tower, "positional_embedding", None)
        mask = getattr(tower, "attn_mask", None)
        if prefix == "" and position is not None and position.shape[0] != length:
            swapped["positional_embedding"] = position[:length]
        if mask is not None and mask.shape[0] != length:
            swapped[prefix + "attn_mask"] = mask[:length, :length]
    if not swapped:
        return model.encode_text(tokens)  # type: ignore[operator]
    out = torch.func.functional_call(model, swapped, (), {"text": tokens})
    return out["text_features"] if isinstance(out, dict) else out[1]


def _unit(features: torch.Tensor) -> np.ndarray:
    return torch.nn.functional.normalize(features.float(), dim=-1).cpu().numpy()


def _in_dtype(model: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
    """A copy of a model whose floating-point weights and buffers are cast, one after the other."""
    parameters = {
        id(each): torch.nn.Parameter(each.detach().to(dtype), requires_grad=False)
        for each in model.parameters()
    }
    buffers = {id(each): each.to(dtype) for each in model.buffers() if each.is_floating_point()}
    return copy.deepcopy(model, {**parameters, **buffers})


def _lacks_bf16() -> bool:
    """Whether the CPU is known to have no instructions for bf16."""
    found: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    known = [bool(has) for name, has in found.items() if name.endswith("bf16")]
    return bool(known) and not any(known)


def _preprocessing(model: torch.nn.Module) -> Preprocessing:
    config = open_clip.get_model_preprocess_cfg(model)
    size = config.get("size", 224)
    height, width = (size, size) if isinstance(size, int) else tuple(size)
    return Preprocessing(
        size=(height, width),
        interpolation=config.get("interpolation", "bicubic"),
        resize_mode=config.get("resize_mode", "shortest"),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        fill_color=config.get("fill_color", 0),
    )


def threads_used() -> int:
    """How many threads torch uses in this process."""
    return torch.get_num_threads()


def use_threads(count: int) -> None:
    """Have torch use `count` threads in this process."""
    torch.set_num_threads(count)


CPU_BATCH, GPU_BATCH = 64, 512


@dataclass(frozen=True)
class LoadedModel:
    """An open_clip model on its device in evaluation mode, and how it is to be run."""

    model: torch.nn.Module
    tokenizer: Any
    facts: Mapping[str, Any]
    """model, pretrained, precision."""
    batch_size: int
    chosen: str
    """One line with device, precision and batch size, and which of them were chosen."""
    statistics: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    """Mean and standard deviation per channel; None: the model's own."""


def load_model(choice: ModelChoice) -> LoadedModel:
    """The model for a choice, its weights in evaluation mode on one device.

    Raises UsageError for a model or tag that open_clip does not know and for forbidden values in a
    config (see `check_config`), BlissError for weights that are missing, unreachable, or code
    (TorchScript) that was not allowed, and for a package that is not installed.
    """
    device = _device(choice.device)
    precision = choice.precision or ("fp16" if device.type == "cuda" else "fp32")
    if precision == "bf16" and device.type == "cpu":
        precision = CAST_BF16
    batch_size = choice.batch_size or (GPU_BATCH if device.type == "cuda" else CPU_BATCH)
    name, pretrained = resolve_model(
        choice, open_clip.list_models(), open_clip.list_pretrained_tags_by_model
    )
    with _cached_if_offline(name, pretrained):
        tokenizer = _tokenizer(name, pretrained)
        model = _load(name, pretrained, choice.allow_torchscript)
    facts = {"model": choice.model or name, "pretrained": pretrained, "precision": precision}
    picked = {"device": choice.device, "precision": choice.precision, "batch": choice.batch_size}
    values = {"device": str(device), "precision": precision, "batch": str(batch_size)}
    if precision == CAST_BF16 and device.type == "cpu" and _lacks_bf16():
        values["precision"] += " (slow: this CPU has no bf16 instructions)"
    chosen = ", ".join(
        f"{key} {values[key]}{' (chosen)' * (picked[key] is None)}" for key in values
    )
    model = model.to(device).eval()
    return LoadedModel(model, tokenizer, facts, batch_size, chosen, choice.statistics)


def weights_sha256(model: torch.nn.Module) -> str:
    """SHA-256 over every tensor of the state dict in name order: names, types, shapes, bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _device(wanted: str | None) -> torch.device:
    if wanted is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(
            f"device '{wanted}' cannot be used ({str(error).splitlines()[0]})",
            "a device this machine's torch can use",
            "Leave --device out to have one chosen",
        ) from error
    return device


def _load(name: str, pretrained: str | None, allow_torchscript: bool) -> torch.nn.Module:
    is_script = any(is_torchscript(path) for path in weight_files(name, pretrained))
    if is_script and not allow_torchscript:
        raise BlissError(
            f"the weights of {pretrained or name} are a TorchScript archive, which is code",
            "weights only: safetensors, or a state dict",
            "Convert them to safetensors, or pass --allow-torchscript if you trust their source",
        )
    with _plain_errors(name, pretrained):
        # No base weights for the towers: they are another repository's, and would be replaced.
        return open_clip.create_model(
            name,
            pretrained,
            require_pretrained=True,
            weights_only=not is_script,
            pretrained_text=False,
        )


def _tokenizer(name: str, pretrained: str | None) -> Any:
    """The tokenizer of a model, whose config is fetched and checked before anything else."""
    foreign = name.startswith((FOLDER, HUB))
    with _plain_errors(name, pretrained):
        config = open_clip.get_model_config(name if foreign else name.replace("/", "-"))
        if foreign:
            check_config(name, config, _own_repositories(), named_repository)
        for package in needed_packages(config):
            raise not_installed(name, package)
        _refuse_remote_code()
        text = config.get("text_cfg") or {}
        code: dict[str, Any] = {"trust_remote_code": False}
        if not foreign:
            code = code if text.get("hf_tokenizer_name") else {}
            return open_clip.get_tokenizer(name.replace("/", "-"), **code)
        # Made from the checked config: open_clip.get_tokenizer would fetch it again.
        arguments = {"context_length": text.get("context_length", DEFAULT_CONTEXT_LENGTH)}
        arguments.update(text.get("tokenizer_kwargs") or {})
        if not text.get("hf_tokenizer_name"):
            return open_clip.SimpleTokenizer(**arguments)
        if text.get("tokenizer_mode"):
            arguments["tokenizer_mode"] = text["tokenizer_mode"]
        folder = name.removeprefix(FOLDER)
        source = folder if name.startswith(FOLDER) else text["hf_tokenizer_name"]
        return HFTokenizer(source, **arguments, **code)


def recipe_tokeniser(recipe: TokenizerRecipe) -> Tokenise:
    """The tokeniser that a recipe describes, made in this process."""
    tokenizer = open_clip.SimpleTokenizer(
        context_length=recipe.context_length, clean=recipe.cleaning
    )
    return simple_tokeniser(tokenizer, recipe)


def lists_weights(model: str, pretrained: str) -> bool:
    """Whether open_clip itself lists these weights for one of its own models."""
    return pretrained in open_clip.list_pretrained_tags_by_model(model)


def _own_repositories() -> set[str]:
    """The repositories that the configs of open_clip's own models name."""
    texts = [open_clip.get_model_config(each)["text_cfg"] for each in open_clip.list_models()]
    names = {text.get(key) for text in texts for key in ("hf_tokenizer_name", "hf_model_name")}
    return {name for name in names if name}


def _refuse_remote_code() -> None:
    """Have transformers refuse a repository with code instead of asking on the terminal."""
    try:
        from transformers import dynamic_module_utils
    except ImportError:
        return
    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0


@contextmanager
def _cached_if_offline(name: str, pretrained: str | None) -> Iterator[None]:
    """Read the caches alone where the Hub cannot be reached.

    Raises BlissError at once for weights of open_clip's own list that are not in a cache.
    """
    if name.startswith(FOLDER) or (pretrained is not None and os.path.isfile(pretrained)):
        yield
        return
    with _hub_cache_if_offline() as host:
        if host is not None and pretrained is not None and lists_weights(name, pretrained):
            try:
                open_clip.download_pretrained(open_clip.get_pretrained_cfg(name, pretrained))
            except Exception as error:
                raise BlissError(
                    f"the weights {pretrained} of model {name} are not in the cache, and {host} "
                    "cannot be reached",
                    "a network, the weights in the cache, or a model on this machine",
                    "Load them once where there is a network (HF_HUB_OFFLINE=1 then uses the cache "
                    "alone), or give --model local-dir:FOLDER; --model demo works offline, for "
                    "trying the program out only",
                ) from error
        yield


@contextmanager
def _hub_cache_if_offline() -> Iterator[str | None]:
    """Have the Hub's client read its cache alone where its host has no address here.

    Otherwise it tries again for a minute. Gives the host where that is so or HF_HUB_OFFLINE is set,
    None where it can be reached.
    """
    from huggingface_hub import constants

    host, before = urlsplit(constants.ENDPOINT).hostname or "", constants.HF_HUB_OFFLINE
    if not (before or _has_no_address(host)):
        yield None
        return
    constants.HF_HUB_OFFLINE = True
    try:
        yield host
    finally:
        constants.HF_HUB_OFFLINE = before


def _has_no_address(host: str) -> bool:
    """Whether a host cannot be found, and no proxy could find it."""
    if not host or getproxies():
        return False
    try:
        socket.getaddrinfo(host, 443)
    except socket.gaierror:
        return True
    return False


@contextmanager
def _plain_errors(name: str, pretrained: str | None) -> Iterator[None]:
    """Turn whatever a library raises while it loads a model into one BlissError."""
    try:
        yield
    except BlissError:
        raise
    except Exception as error:
        package = package_of(error)
        if package is not None:
            raise not_installed(name, package) from error
        reason = " ".join(str(error).split())[:400] or type(error).__name__
        raise BlissError(
            f"model {name}{f' with weights {pretrained}' if pretrained else ''} "
            f"could not be loaded ({reason})",
            "a folder with open_clip_config.json and matching weights, or a reachable download",
            "Check the path or the network; --model demo works offline, "
            "for trying the program out only",
        ) from error

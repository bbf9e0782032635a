"""Types of option values that have a form of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from ..errors import UsageError

if TYPE_CHECKING:
    from ..indexer import SearchChoice


def split_names(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> tuple[str, ...]:
    """Names that were given one by one or separated by commas, each once, in order."""
    names = (name.strip() for value in values for name in value.split(","))
    return tuple(dict.fromkeys(name for name in names if name))


def p_value_words(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> tuple[str, ...]:
    """held-out or leave-one-out, and per-class, as they were given."""
    words = split_names(context, parameter, values)
    sources, others = {"held-out", "leave-one-out"}, {"per-class"}
    if not {*words} <= sources | others or sources <= {*words}:
        raise UsageError(
            f"--p-values {','.join(words)} was given",
            "held-out or leave-one-out, per-class, or two of them separated by a comma",
            "Write --p-values leave-one-out,per-class",
        )
    return words


@dataclass(frozen=True)
class Limits:
    """What is too much for a command to succeed."""

    flagged: int | None = None
    unreadable: int | None = None
    small_classes: bool = False

    def __str__(self) -> str:
        numbers = {"flagged": self.flagged, "unreadable": self.unreadable}
        words = [f"{name}={most}" for name, most in numbers.items() if most is not None]
        return ",".join(words + ["small-classes"] * self.small_classes)


def limits(
    *kinds: str,
) -> Callable[[click.Context, click.Parameter, tuple[str, ...]], Limits | None]:
    """What makes Limits of NAME=N and small-classes, of those in `kinds`; None if there is none."""

    def made(
        context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
    ) -> Limits | None:
        found: dict[str, Any] = {}
        for word in split_names(context, parameter, values):
            name, equals, number = word.partition("=")
            counts = name != "small-classes"
            if name not in kinds or not (_is_count(number) if counts else not equals):
                forms = [kind if kind == "small-classes" else f"{kind}=N" for kind in kinds]
                raise UsageError(
                    f"--fail-on {word} was given",
                    f"{', '.join(forms[:-1])} or {forms[-1]}" if forms[1:] else forms[0],
                    f"Write --fail-on {kinds[0]}={word if _is_count(word) else 0}",
                )
            found[name.replace("-", "_")] = int(number) if counts else True
        return Limits(**found) if found else None

    return made


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit()


class SearchWords(click.ParamType):
    """KIND,name=n,device=…,shards as a SearchChoice."""

    name = "[KIND][,NAME=NUMBER][,device=DEVICE][,shards]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: Any) -> SearchChoice:
        from ..indexer import SearchChoice

        if isinstance(value, SearchChoice):
            return value
        kind: list[str] = []
        devices: list[str] = []
        shards = False
        numbers: dict[str, int] = {}
        for word in str(value).split(","):
            name, equals, number = word.partition("=")
            if devices and word.isdecimal():
                devices.append(word)
            elif word == "shards":
                shards = True
            elif name == "device" and number:
                devices.append(number)
            elif not equals and word:
                kind.append(word)
            elif name and _is_count(number):
                numbers[name] = int(number)
            else:
                raise UsageError(
                    f"--search {value!r} was given, with {word!r} in it",
                    "a kind, NAME=NUMBER, device=DEVICE or shards, separated by commas",
                    "Write --search exact or --search nprobe=64,device=cuda",
                )
        device = ",".join(devices) or "cpu"
        return SearchChoice(",".join(kind) or None, numbers or None, device, shards)

    @staticmethod
    def text(choice: SearchChoice) -> str:
        """The option's value that gives `choice`."""
        words = [choice.kind] if choice.kind else []
        words += [f"{name}={number}" for name, number in sorted((choice.parameters or {}).items())]
        words += [f"device={choice.device}"] if choice.device != "cpu" else []
        return ",".join(words + ["shards"] * choice.shards)


@dataclass(frozen=True)
class EngineName:
    """An engine, and with ray the cluster's address and the number of encoders."""

    name: str
    address: str | None = None
    actors: int | None = None

    def __str__(self) -> str:
        words = [self.address] if self.address else []
        words += [f"actors={self.actors}"] if self.actors else []
        return ":".join([self.name, ",".join(words)]) if words else self.name


class EngineType(click.ParamType):
    """local, or ray[:ADDRESS,actors=N]."""

    name = "local|ray[:ADDRESS,actors=N]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: Any) -> EngineName:
        if isinstance(value, EngineName):
            return value
        value = str(value)
        name, rest = (value[:3], value[3:].lstrip(":,")) if value[:3] == "ray" else (value, "")
        address, actors, wrong = None, None, name not in ("local", "ray")
        for word in filter(None, rest.split(",")):
            number = word.removeprefix("actors=")
            if number == word and address is None:
                address = word
            elif number != word and _is_count(number) and int(number):
                actors = int(number)
            else:
                wrong = True
        if wrong or (rest and value[3] not in ":,"):
            raise UsageError(
                f"--engine {value!r} was given",
                "local, ray or ray:ADDRESS,actors=N, with N from 1",
                "Write --engine ray, or --engine ray:auto,actors=2",
            )
        return EngineName(name, address, actors)


class ReportSize(click.ParamType):
    """N images, or none for no report: an int, -1 for none."""

    name = "N|none"

    def convert(self, value: Any, param: click.Parameter | None, ctx: Any) -> int:
        if value in ("none", -1):
            return -1
        if _is_count(str(value)) and int(value):
            return int(value)
        raise UsageError(
            f"--report {value!r} was given",
            "how many images the report shows one by one, 1 or more, or none for no report",
            "Write --report 200 or --report none",
        )


class Exclusion(click.ParamType):
    """label-words, or near-labels=COSINE, as a name and a number."""

    name = "label-words|near-labels=COSINE"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: Any
    ) -> tuple[str, float | None]:
        if not isinstance(value, str):
            return value
        name, _, number = value.partition("=")
        if value == "label-words":
            return (name, None)
        try:
            if name == "near-labels":
                return (name, float(number))
        except ValueError:
            pass
        raise UsageError(
            f"--exclude {value!r} was given",
            "label-words, or near-labels=COSINE with a number",
            "Write --exclude near-labels=0.95",
        )

    @staticmethod
    def text(name: str, number: float | None) -> str:
        """The option's value that gives this name and number."""
        return name if number is None else f"{name}={number:g}"


@dataclass(frozen=True)
class FlagRule:
    """What flags images: a name of Flag.NAMES and its number."""

    name: str
    number: float | None

    def fields(self) -> dict[str, Any]:
        """The fields of a DecisionRule that it sets."""
        if self.name == "empirical-null":
            return {"empirical_null": True, **({} if self.number is None else {"fdr": self.number})}
        return {{"fdr": "fdr", "share": "contamination", "count": "top"}[self.name]: self.number}

    def __str__(self) -> str:
        if self.name == "count":
            return f"{self.number}"
        number = self.number if self.name != "share" or self.number is None else 100 * self.number
        if self.name == "share":
            return f"{number:.12g}%"
        return self.name if number is None else f"{self.name}={number:g}"


class Flag(click.ParamType):
    """fdr=RATE, N, N% or a share below 1, or empirical-null[=RATE]."""

    name = "RULE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: Any) -> FlagRule:
        if isinstance(value, FlagRule):
            return value
        text = str(value)
        if _is_count(text):
            return FlagRule("count", int(text))
        name, equals, number = text.partition("=")
        try:
            if name in ("fdr", "empirical-null"):
                if not equals and name == "empirical-null":
                    return FlagRule(name, None)
                return FlagRule(name, float(number))
            share = float(text[:-1]) / 100 if text.endswith("%") else float(text)
            if 0 < share < 1:
                return FlagRule("share", share)
        except ValueError:
            pass
        raise UsageError(
            f"--flag {text!r} was given",
            "fdr=RATE, a number of images, a share of them above 0 and below 100%, or "
            "empirical-null[=RATE]",
            "Write --flag fdr=0.05, --flag 20, --flag 5% or --flag empirical-null",
        )


SEED = click.IntRange(0, 2**32 - 1)
SEARCH_WORDS, ENGINE_NAME, REPORT_SIZE = SearchWords(), EngineType(), ReportSize()
EXCLUSION, FLAG_RULE = Exclusion(), Flag()

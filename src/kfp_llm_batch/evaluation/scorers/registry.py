"""Scorers by name: those of this package, and those that other packages register by entry point."""

from __future__ import annotations

import dataclasses
import inspect
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.evaluation.scorers.protocol import Metric, PreparedScorer, Scorer

ENTRY_POINT_GROUP = "kfp_llm_batch.scorers"

_CLASSES: Mapping[str, str] = {
    "bleu": "Bleu",
    "chrf": "Chrf",
    "classification": "Classification",
    "contains": "Contains",
    "embedding_cosine": "EmbeddingCosine",
    "empty": "Empty",
    "exact_match": "ExactMatch",
    "json_fields": "JsonFields",
    "json_schema": "JsonSchema",
    "json_valid": "JsonValid",
    "judge": "Judge",
    "language": "Language",
    "length": "Length",
    "majority_at_k": "MajorityAtK",
    "multiple_choice": "MultipleChoice",
    "normalized_match": "NormalizedMatch",
    "numeric_match": "NumericMatch",
    "pass_at_k": "PassAtK",
    "recorded": "Recorded",
    "refusal": "Refusal",
    "regex_match": "RegexMatch",
    "repetition": "Repetition",
    "rouge": "Rouge",
    "token_f1": "TokenF1",
    "truncation": "Truncation",
}
"""Module, which is the scorer's name, and class; imported when it is asked for."""

_RESERVED = ("name", "label")


@dataclass(frozen=True, kw_only=True)
class NamedScorer:
    """A scorer with what it is called in the scores table."""

    name: str
    """By which it is registered."""
    label: str | None
    """Put before its metrics' names, where one scorer is used twice."""
    scorer: Scorer
    options: Mapping[str, Any]
    """As they were given."""

    @property
    def key(self) -> str:
        """Unlike that of any other scorer of the run."""
        return self.label or self.name

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The scorer's metrics under their names in the scores table."""
        prefix = f"{self.label}_" if self.label else ""
        return tuple(dataclasses.replace(metric, name=prefix + metric.name) for metric in self.scorer.metrics)

    def specification(self) -> dict[str, Any]:
        """From which `make_scorer` makes the same scorer again, defaults filled in where they can be known."""
        label = {"label": self.label} if self.label else {}
        return {"name": self.name, **label, **self.options, **_fields(self.scorer)}


def _fields(scorer: Any) -> dict[str, Any]:
    """Its options with their values, if it is a dataclass, as ours are."""
    if isinstance(scorer, PreparedScorer):
        return _fields(scorer.origin)
    if not dataclasses.is_dataclass(scorer):
        return {}
    return {field.name: getattr(scorer, field.name) for field in dataclasses.fields(scorer)}


def scorer_names() -> list[str]:
    """Everything that `evaluation_scorers` may name."""
    return sorted({*_CLASSES, *(point.name for point in entry_points(group=ENTRY_POINT_GROUP))})


def make_scorers(specifications: Sequence[str | Mapping[str, Any]]) -> tuple[NamedScorer, ...]:
    """Scorers from names, or objects with a name and options.

    Raises:
        ConfigurationError: There is none, a name or an option is wrong, or two scorers have the same metric.
    """
    if not specifications:
        raise ConfigurationError(
            "evaluation_scorers names no scorer",
            allowed=scorer_names(),
            remedy='Write ["exact_match"], or [{"name": "numeric_match", "tolerance": 0.01}] with options.',
        )
    scorers = tuple(make_scorer(entry) for entry in specifications)
    counts = Counter(metric.name for scorer in scorers for metric in scorer.metrics)
    counts |= Counter(scorer.key for scorer in scorers)
    if repeated := sorted(name for name, count in counts.items() if count > 1):
        raise ConfigurationError(
            "Two scorers of evaluation_scorers measure the same",
            received=repeated[0],
            remedy='Give one of them a "label", which then stands before the names of its metrics.',
        )
    return scorers


def make_scorer(specification: str | Mapping[str, Any]) -> NamedScorer:
    """One scorer.

    Raises:
        ConfigurationError: The name is unknown, or an option is unknown, missing or of another type.
    """
    entry: Mapping[str, Any] = {"name": specification} if isinstance(specification, str) else specification
    name = entry.get("name") if isinstance(entry, Mapping) else None
    if not isinstance(name, str):
        raise ConfigurationError(
            "A scorer is neither a name nor an object with one", received=specification, allowed=scorer_names()
        )
    label = entry.get("label")
    if label is not None and not (isinstance(label, str) and label.isidentifier()):
        raise ConfigurationError(
            f"Scorer {name}: the label is no word of letters, digits and underscores", received=label
        )
    options = {option: value for option, value in entry.items() if option not in _RESERVED}
    return NamedScorer(name=name, label=label, scorer=_made(name, scorer_class(name), options), options=options)


def scorer_class(name: str) -> Callable[..., Scorer]:
    """What makes a scorer of this name from its options.

    Raises:
        ConfigurationError: The name is unknown, or a package that it needs is not installed.
    """
    if name in _CLASSES:
        module = _imported(f"kfp_llm_batch.evaluation.scorers.{name}", name)
        return getattr(module, _CLASSES[name])  # type: ignore[no-any-return]
    points = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    if name not in points:
        raise ConfigurationError("Unknown scorer", received=name, allowed=scorer_names())
    return points[name].load()  # type: ignore[no-any-return]


def _imported(module: str, name: str) -> Any:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"Scorer {name} needs the package {str(error.name).partition('.')[0]}, which is not installed",
            remedy='Install the extra: pip install "kfp-llm-batch[evaluation]".',
        ) from error


def _made(name: str, factory: Callable[..., Scorer], options: Mapping[str, Any]) -> Scorer:
    parameters = inspect.signature(factory).parameters
    if unknown := [option for option in options if option not in parameters]:
        raise ConfigurationError(
            f"Scorer {name} has no such option", received=unknown[0], allowed=sorted(parameters) or ["none"]
        )
    required = [option for option, parameter in parameters.items() if parameter.default is parameter.empty]
    if missing := [option for option in required if option not in options]:
        raise ConfigurationError(f"Scorer {name} needs the option {missing[0]}", remedy="Give it beside the name.")
    hints = get_type_hints(factory)
    for option, value in options.items():
        if option in hints and not _fits(value, hints[option]):
            raise ConfigurationError(f"Scorer {name}: the option {option} has the wrong type", received=value)
    return factory(**options)


def _fits(value: object, expected: Any) -> bool:
    """Whether a JSON value is of the annotated type."""
    origin, kinds = get_origin(expected), get_args(expected)
    if expected is Any:
        return True
    if origin is UnionType:
        return any(_fits(value, kind) for kind in kinds)
    if origin is Sequence:
        return isinstance(value, list | tuple) and all(_fits(entry, kinds[0]) for entry in value)
    if origin is Mapping:
        return isinstance(value, Mapping)
    if expected in (None, NoneType):
        return value is None
    # To isinstance True would be an int; a whole number is as good as a float.
    return type(value) in ((int, float) if expected is float else (expected,))

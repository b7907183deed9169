"""Finding scorers by name, those of other packages too, and refusing wrong names and options at once."""

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.evaluation.scorers import registry
from kfp_llm_batch.evaluation.scorers.registry import make_scorers, scorer_names
from tests.unit.evaluation.answer_cases import make_row

NEEDED: dict[str, dict[str, Any]] = {
    "embedding_cosine": {"model_uri": "demo://smollm2-135m-instruct"},
    "json_schema": {"schema": {}},
    "judge": {"model_uri": "demo://smollm2-135m-instruct", "question_column": "question"},
    "recorded": {"names": ["acc"]},
    "regex_match": {"pattern": "x"},
    "pass_at_k": {"of": "exact_match"},
    "majority_at_k": {"of": "exact_match"},
}


def test_every_scorer_is_a_module_of_its_own_and_keeps_its_options():
    for name in scorer_names():
        (made,) = make_scorers([{"name": name, **NEEDED.get(name, {})}])
        assert made.scorer.version >= 1
        assert made.metrics
        (again,) = make_scorers([made.specification()])
        assert again.scorer == made.scorer


def test_modules_that_no_one_asks_for_are_not_imported():
    code = (
        "import sys; from kfp_llm_batch.evaluation.scorers.registry import make_scorers;"
        "make_scorers(['exact_match']); print({'sacrebleu', 'scipy', 'rapidfuzz', 'py3langid'} & set(sys.modules))"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "set()"


def test_metrics_of_a_labelled_scorer_have_its_label():
    scorers = make_scorers(["numeric_match", {"name": "numeric_match", "label": "close", "relative_tolerance": 0.1}])
    assert [metric.name for scorer in scorers for metric in scorer.metrics] == ["numeric_match", "close_numeric_match"]
    assert [scorer.key for scorer in scorers] == ["numeric_match", "close"]


@pytest.mark.parametrize(
    ("specifications", "message"),
    [
        ([], r"names no scorer.*exact_match"),
        (["exact_mach"], r"Unknown scorer.*Did you mean 'exact_match'"),
        ([{"name": "numeric_match", "tolerence": 1}], r"no such option.*Did you mean 'tolerance'"),
        ([{"name": "numeric_match", "tolerance": "1"}], r"tolerance has the wrong type"),
        ([{"name": "numeric_match", "tolerance": True}], r"tolerance has the wrong type"),
        ([{"name": "classification", "classes": "ab"}], r"classes has the wrong type"),
        ([{"name": "regex_match"}], r"needs the option pattern"),
        ([{"tolerance": 1}], r"neither a name nor an object with one"),
        ([3], r"neither a name nor an object with one"),
        ([{"name": "empty", "words": 3}], r"no such option.*Allowed: none"),
        (["empty", "empty"], r"measure the same.*label"),
        ([{"name": "exact_match", "label": "bleu"}, "bleu"], r"measure the same.*Received: 'bleu'"),
        ([{"name": "empty", "label": "two words"}], r"the label is no word"),
    ],
)
def test_wrong_specifications_are_refused(specifications, message):
    with pytest.raises(ConfigurationError, match=message):
        make_scorers(specifications)


OWN_SCORER = """
from kfp_llm_batch.evaluation.scorers.protocol import Metric, Score, mean_of_answers

class MentionsPrice:
    version = 3
    needs_target = False

    def __init__(self, currency: str = "$"):
        self.currency = currency

    @property
    def metrics(self):
        return (Metric(name="mentions_price"),)

    def score(self, row):
        return Score((mean_of_answers(row, lambda answer: float(self.currency in answer)),))
"""


@pytest.fixture
def installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another package with a scorer of its own, as pip would have installed it."""
    (tmp_path / "price_scorers.py").write_text(OWN_SCORER)
    info = tmp_path / "price_scorers-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: price-scorers\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[{registry.ENTRY_POINT_GROUP}]\nmentions_price = price_scorers:MentionsPrice\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()


@pytest.mark.usefixtures("installed_package")
def test_a_scorer_of_another_package():
    assert "mentions_price" in scorer_names()
    (made,) = make_scorers([{"name": "mentions_price", "currency": "EUR"}])
    found = made.scorer.score(make_row("5 EUR", "5 $"))
    assert found is not None
    assert found.values == (0.5,)
    assert made.specification() == {"name": "mentions_price", "currency": "EUR"}
    with pytest.raises(ConfigurationError, match=r"no such option.*Allowed: currency"):
        make_scorers([{"name": "mentions_price", "curency": "EUR"}])


def test_a_missing_package_is_named_with_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "rapidfuzz.distance", None)
    monkeypatch.delitem(sys.modules, "kfp_llm_batch.evaluation.scorers.rouge", raising=False)
    with pytest.raises(ConfigurationError, match=r"rouge needs the package rapidfuzz,.*kfp-llm-batch\[evaluation\]"):
        make_scorers(["rouge"])

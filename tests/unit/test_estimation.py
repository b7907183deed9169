"""What a job will take: the parts of the calculation, and the whole of it through the echo engine."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from kfp_llm_batch.cli.estimate import read_arguments
from kfp_llm_batch.cli.main import app
from kfp_llm_batch.dataset.loading import DatasetConfig
from kfp_llm_batch.dataset.prompts import Prompts
from kfp_llm_batch.errors import ConfigurationError, DataError
from kfp_llm_batch.estimation.estimating import EstimateConfig, estimate
from kfp_llm_batch.estimation.forecast import Work, forecast, steps
from kfp_llm_batch.estimation.probe import FEW, MANY, PROMPTS, Findings
from kfp_llm_batch.estimation.sample import SAMPLE_ROWS, PrefixBlocks, Sample, draw_sample
from kfp_llm_batch.estimation.speed import Round, Speed, fit
from kfp_llm_batch.generation.chat_tokenizer import EchoTokenizer
from kfp_llm_batch.generation.config import GenerationConfig
from kfp_llm_batch.generation.generating import generate
from kfp_llm_batch.generation.preparation import RowPreparer
from kfp_llm_batch.generation.report import estimate_table, markdown_report
from kfp_llm_batch.generation.sampling import SamplingConfig

SPEED = Speed(step=0.02, prompt_token=0.0017, new_token=0.0025)
WORK = {PROMPTS: (1, 4000, 0), FEW: (32, 400, 124), MANY: (128, 4000, 5000)}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KFP_LLM_BATCH_CACHE", str(tmp_path / "cache"))


def rounds(noise: float = 0.0) -> list[Round]:
    """Two of each kind, the first slower by `noise` and the second faster."""
    return [
        Round(
            kind=kind,
            steps=work[0],
            prompt_tokens=work[1],
            new_tokens=work[2],
            seconds=SPEED.seconds(*work) * factor,
        )
        for kind, work in WORK.items()
        for factor in (1 + noise, 1 - noise)
    ]


def preparer(max_tokens: int = 32) -> RowPreparer:
    return RowPreparer(
        tokenizer=EchoTokenizer(),
        sampling=SamplingConfig(max_tokens=max_tokens),
        model_digest="",
        answer_settings={},
        max_model_len=8192,
    )


def sample_of(make_prompts, rows: list[dict[str, str]], name: str = "prompts") -> Sample:
    return draw_sample(Prompts(make_prompts(rows, name=name)), preparer())


def test_the_fit_finds_the_speed_that_made_the_rounds():
    found = fit(rounds())
    assert (found.step, found.prompt_token, found.new_token) == pytest.approx((0.02, 0.0017, 0.0025))


def test_the_fit_is_never_negative():
    made = [Round(kind=MANY, steps=10, prompt_tokens=100, new_tokens=work, seconds=20 - work) for work in (1, 5, 9)]
    found = fit(made)
    assert min(found.step, found.prompt_token, found.new_token) >= 0
    assert found.seconds(10, 100, 5) == pytest.approx(15, rel=0.3)


def test_steps_of_requests_in_slots():
    assert steps([5, 9, 7], 3) == 9
    assert steps([5, 9, 7, 4], 3) == 9  # the fourth starts when the first has ended
    assert steps([10] * 100, 10) == 100


def test_a_common_beginning_is_computed_once():
    blocks, beginning = PrefixBlocks(), list(range(100))
    assert blocks.fresh_tokens([*beginning, 1, 2]) == 102
    assert blocks.fresh_tokens([*beginning, 3, 4]) == 102 - 96
    assert blocks.fresh_tokens([*beginning, 3, 4]) == 102 - 96
    assert blocks.fresh_tokens([7, *beginning]) == 101


def test_a_sample_of_many_rows_stands_for_all(make_prompts):
    rows = [{"question": f"{index:05d}" + "x" * (index % 50)} for index in range(2 * SAMPLE_ROWS)]
    sample = sample_of(make_prompts, rows)
    assert (sample.rows, sample.scale, sample.is_whole) == (SAMPLE_ROWS, 2.0, False)
    assert sample.job.requests == len(rows)
    whole = np.mean([len(row["question"]) for row in rows])
    assert sample.facts.mean_prompt_tokens - 7 == pytest.approx(whole, rel=0.05)


def test_identical_rows_are_one_request(make_prompts):
    sample = sample_of(make_prompts, [{"question": "same"}] * 10 + [{"question": "other"}])
    assert len(sample.answers) == 2


def test_the_forecast_is_the_arithmetic_of_the_rounds(make_prompts):
    sample = sample_of(make_prompts, [{"question": f"{index:03d}" * 10} for index in range(300)])
    findings = Findings(rounds=rounds(), answer_tokens=[100] * 50, is_cut=False, warm_up_seconds=7.0, seconds=1.0)
    found = forecast(Work(requests=300, engines=2, slots=256), sample, findings)
    expected = 7 + SPEED.seconds(100, 150 * len(sample.answers[0].rows[0].token_ids), 150 * 99)
    assert found.completion_tokens.expected == 300 * 100
    assert found.seconds.expected == pytest.approx(expected, rel=0.03)
    assert 1.45 < found.seconds.high / found.seconds.low < 1.85  # RUN_SPREAD, both ways


def test_a_probe_that_is_not_sure_gives_a_wider_interval(make_prompts):
    sample = sample_of(make_prompts, [{"question": f"{index:03d}" * 10} for index in range(300)])
    work = Work(requests=300, engines=1, slots=256)
    widths = []
    for noise in (0.0, 0.3):
        made = Findings(
            rounds=rounds(noise), answer_tokens=[20, 180] * 10, is_cut=False, warm_up_seconds=0.0, seconds=1.0
        )
        found = forecast(work, sample, made).seconds
        widths.append((found.high - found.low) / found.expected)
    assert widths[1] > widths[0] * 1.1


def write_questions(folder: Path, count: int) -> str:
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps({"question": f"question {index:04d}"}) + "\n" for index in range(count)))
    return str(path)


def test_the_run_shows_the_estimate_of_its_job_beside_the_truth(tmp_path, make_prompts, caplog):
    rows = [{"question": f"question {index}"} for index in range(100)]
    prompts = make_prompts(rows)
    manifest = Prompts(prompts).manifest
    generation = GenerationConfig(model_uri="echo://")
    source = DatasetConfig(uri=manifest.source_uri, prompt_template=manifest.parameters["prompt_template"])
    made = estimate(source, generation, EstimateConfig(probe_seconds=0.2))
    assert (made.rows, made.rows_sampled, made.num_shards) == (100, 100, 1)
    with caplog.at_level(logging.INFO):
        result = generate(generation, prompts, tmp_path / "result")
    assert "are expected, by probe" in caplog.text
    assert result.estimate["prompt_tokens"]["expected"] == result.num_prompt_tokens
    low, high = (result.estimate["completion_tokens"][name] for name in ("low", "high"))
    assert low <= result.num_completion_tokens <= high
    report = markdown_report(result, tmp_path / "result")
    assert "## Estimate and truth" in report
    assert f"| prompt_tokens | {result.num_prompt_tokens:,.1f} |" in estimate_table(result)


def test_another_job_has_no_estimate(tmp_path, make_prompts):
    result = generate(GenerationConfig(model_uri="echo://"), make_prompts([{"question": "one"}]), tmp_path / "result")
    assert result.estimate == {}
    assert "Estimate" not in markdown_report(result, tmp_path / "result")


def test_what_the_dataset_lacks_is_said_before_any_model_loads(tmp_path):
    source = DatasetConfig(uri=write_questions(tmp_path, 3), prompt_template="{{ answer }}")
    with pytest.raises(ConfigurationError, match="answer"):
        estimate(source, GenerationConfig(model_uri="/no/such/model"), EstimateConfig())


def test_rows_that_cannot_be_answered_are_nothing_to_estimate(make_prompts):
    with pytest.raises(DataError, match=r"none of 2 rows can be answered, the first for prompt_too_long"):
        sample_of(make_prompts, [{"question": "q" * 9000}, {"question": "r" * 9000}])


def test_the_command_takes_the_parameters_of_a_run(tmp_path):
    options = ["--dataset-uri", write_questions(tmp_path, 40), "--prompt-template={{ question }}"]
    command = ["estimate", *options, "-p", "generation_max_tokens=4", "--model-uri", "echo://"]
    result = CliRunner().invoke(app, [*command, "--probe-seconds", "0.1", "--output", "json"])
    found = json.loads(result.stdout)
    assert (found["basis"], found["rows"], found["completion_tokens"]["expected"]) == ("probe", 40, 160)
    assert 0 < found["seconds"]["low"] < found["seconds"]["expected"] < found["seconds"]["high"]


def test_the_command_shows_a_table(tmp_path):
    options = ["--dataset-uri", write_questions(tmp_path, 40), "--prompt-template", "{{ question }}"]
    result = CliRunner().invoke(app, ["estimate", *options, "--model-uri", "echo://", "--probe-seconds", "0.1"])
    assert "whole step" in result.stdout
    assert "processor hours" in result.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dataset-url", "x"], "dataset_url"),
        (["--dataset-uri"], "An option needs a value"),
        (["x"], "options alone"),
        ([], "dataset_uri"),
        (["--dataset-uri", "x", "--generation-max-tokens", "many"], "generation_max_tokens has the wrong type"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ConfigurationError, match=message):
        read_arguments(options, [], None)


def test_defaults_are_those_of_the_pipeline():
    arguments = read_arguments(["--dataset-uri", "questions.jsonl", "--prompt-template", "{{ q }}"], [], None)
    assert GenerationConfig.from_parameters(arguments) == GenerationConfig(model_uri="demo://smollm2-135m-instruct")
    assert DatasetConfig.from_parameters(arguments).uri == "questions.jsonl"


@pytest.mark.parametrize("wrong", [{"hours": 0}, {"probe_seconds": -1}])
def test_times_are_positive(wrong):
    with pytest.raises(ConfigurationError, match="no positive number"):
        EstimateConfig(**wrong)

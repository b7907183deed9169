"""A real vLLM run that is ended twenty times at random moments: nothing is lost, and little is done twice.

Takes about ten minutes; `make test-endurance` runs it.
"""

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from kfp_llm_batch.cli.demo_dataset import write_demo_dataset
from kfp_llm_batch.dataset.loading import DatasetConfig, load_dataset
from kfp_llm_batch.generation.checkpoint import Checkpoint
from kfp_llm_batch.results.audit import audit_result

ROWS = 240
ROWS_PER_PART = 20
ENDS = 20

RUN = """
import sys
from pathlib import Path
from kfp_llm_batch.generation import parts, progress
from kfp_llm_batch.generation.config import GenerationConfig
from kfp_llm_batch.generation.generating import generate
from kfp_llm_batch.generation.sampling import SamplingConfig
from kfp_llm_batch.steps import step

parts.ROWS_PER_PART = int(sys.argv[4])
progress.LINE_SECONDS = 0.0
with step(""):
    config = GenerationConfig(
        model_uri="demo://smollm2-135m-instruct",
        sampling=SamplingConfig(max_tokens=96),
        engine_options={"max_num_seqs": 8},  # so that rows finish all the time and not all at the end
        checkpoint_uri=sys.argv[2],
    )
    generate(config, Path(sys.argv[1]), Path(sys.argv[3]))
"""
FINISHED = re.compile(r"([\d,]+) of [\d,]+ rows \(")


@pytest.mark.endurance
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
def test_a_run_that_is_ended_twenty_times_is_whole_in_the_end(tmp_path: Path, number: signal.Signals) -> None:
    write_demo_dataset(tmp_path / "rows.jsonl", rows=ROWS)
    load_dataset(
        DatasetConfig(uri=str(tmp_path / "rows.jsonl"), prompt_template="{{ question }}"), tmp_path / "prompts"
    )
    chance = random.Random(number)
    ends: list[int] = []
    twice: list[int] = []
    while (process := start(tmp_path)) and len(ends) < ENDS:
        before = len(kept_rows(tmp_path))
        seconds = chance.uniform(2, 40)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            end(process, number)
        if process.returncode == 0:
            (tmp_path / "result" / "manifest.json").unlink()
            for name in Checkpoint(str(tmp_path / "checkpoint")).part_names():
                (tmp_path / "checkpoint" / name).unlink()
            continue
        ends.append(process.returncode)
        kept = kept_rows(tmp_path)
        assert len(kept) == len(set(kept)), "no row is in two parts"
        twice.append(before + finished_rows(tmp_path) - len(kept))
        print(
            f"end {len(ends)} after {seconds:.1f} s: {len(kept)} rows kept, {twice[-1]} finished ones lost", flush=True
        )
    assert process.wait(600) == 0, (tmp_path / "log").read_text()
    assert max(twice) <= (ROWS_PER_PART if number == signal.SIGKILL else 0)
    report = audit_result(str(tmp_path / "result"))
    assert (report.problems, report.rows) == ((), ROWS)
    if number == signal.SIGTERM:
        # -15: the interpreter was still importing, and there was nothing to keep.
        assert set(ends) <= {6, -15}


def start(folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", RUN, *(str(folder / name) for name in ("prompts", "checkpoint", "result"))]
    with (folder / "log").open("wb") as log:
        return subprocess.Popen([*command, str(ROWS_PER_PART)], start_new_session=True, stderr=log)


def end(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    started = time.monotonic()
    if number == signal.SIGKILL:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    process.wait(60)
    assert time.monotonic() - started < 10, "a pod that is asked to end has ten seconds"


def kept_rows(folder: Path) -> list[str]:
    """Rows in the checkpoint; invalid ones are found anew by every run."""
    tables = [pq.read_table(part, columns=["row_id", "status"]) for part in (folder / "checkpoint").glob("part-*")]
    return [row["row_id"] for table in tables for row in table.to_pylist() if row["status"] != "invalid"]


def finished_rows(folder: Path) -> int:
    """Rows that the run's own log says it finished, besides those it took over."""
    found = FINISHED.findall((folder / "log").read_text())
    return int(found[-1].replace(",", "")) if found else 0

"""What the comparison benchmark computes and reports, without any peer."""

import os
import sys
import time

import psutil
import pytest

from benchmarks.answers import compare_answers
from benchmarks.measuring import measure
from benchmarks.report import report
from benchmarks.roofline import Shape, decode_work, prefill_work

SHAPE = Shape(hidden=4, intermediate=8, layers=2, heads=2, kv_heads=1, head_size=2, vocabulary=10)
LAYER_PARAMETERS = 2 * (4 * 4 + 2 * 4 * 2 + 4 * 4 + 3 * 4 * 8)
"""Query, key and value, output; gate, up and down."""


def test_the_shape_counts_its_parameters():
    assert SHAPE.layer_parameters == LAYER_PARAMETERS
    assert SHAPE.output_parameters == 40


def test_a_shared_prefix_is_computed_once():
    alone, size = prefill_work(SHAPE, [10], 0)
    together, size_together = prefill_work(SHAPE, [10, 10], 10)
    assert together == alone + 2 * SHAPE.output_parameters
    assert size_together == size
    assert prefill_work(SHAPE, [10, 10], 0)[0] == 2 * alone


def test_decoding_reads_the_weights_once_for_each_step_and_the_cache_for_each_token():
    flops, size = decode_work(SHAPE, [5, 5], [1, 3])
    contexts = 6 + 7
    assert flops == 2 * (LAYER_PARAMETERS + 40) * 2 + SHAPE.attention_flops * contexts
    assert size == 2 * (LAYER_PARAMETERS + 40) * 2 + SHAPE.kv_bytes * contexts


def run_python(code, folder, timeout=30.0):
    return measure([sys.executable, "-c", code], os.environ, folder / "log", timeout)


def test_a_process_is_measured_with_its_children(tmp_path):
    grandchild = "block = b'x' * 2**28; import time; time.sleep(3)"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {grandchild!r}])"
    seen = run_python(child, tmp_path)
    assert seen.error is None
    assert seen.seconds > 3
    assert seen.peak_mib > 256


def test_a_failing_process_tells_its_error(tmp_path):
    seen = run_python("print('before'); raise ValueError('no such cache')", tmp_path)
    assert seen.error == "ValueError: no such cache"


def test_a_late_process_is_ended_with_its_children(tmp_path):
    started = time.monotonic()
    seen = run_python("import subprocess; subprocess.run(['sleep', '60'])", tmp_path, timeout=1.0)
    assert seen.error == "stopped after 1 s"
    assert time.monotonic() - started < 20


def test_answers_are_compared_with_the_reference():
    texts = {("job", "a"): ["one", "two"], ("job", "b"): ["one", "tw!!"], ("other", "b"): ["x"]}
    assert compare_answers(texts, "job", "a")["b"] == {"equal": 0.5, "common_beginning": pytest.approx((1 + 2 / 3) / 2)}


def run(contestant, number, seconds, error=None):
    measured = {"load_seconds": 1.0, "generate_seconds": seconds - 1, "first_row_seconds": 1.0, "peak_mib": 100.0}
    rest = {"versions": {}, "settings": {}, "tokens": [10], "prompt_tokens": 7}
    return {
        "job": "j",
        "contestant": contestant,
        "round": number,
        "seconds": seconds,
        "error": error,
        **measured,
        **rest,
    }


def test_the_report_takes_medians_of_warm_rounds_and_hides_no_failure():
    machine = {
        "cpu_model": "C",
        "instruction_set": "AVX2",
        "physical_cores": 2,
        "memory_limit_bytes": 2**30,
        "kernel": "6",
        "python": "3",
    }
    runs = [
        run("ref", 0, 90.0),
        run("ref", 1, 20.0),
        run("ref", 2, 22.0),
        run("own", 1, 7.0),
        run("bad", 1, 1.0, "Boom"),
    ]
    text = report(
        {
            "created_at": "now",
            "machine": machine,
            "model": "m",
            "reference": "ref",
            "notes": {"ref": "", "own": ""},
            "jobs": {"j": {"rows": 1, "max_tokens": 10, "prompt_lengths": [7]}},
            "not_run": {"gone": "not installed: no wheel"},
            "runs": runs,
            "answers": {"j": {"own": {"equal": 1.0, "common_beginning": 1.0}}},
        }
    )
    assert "| ref | 21.0 | 90.0 |" in text
    assert "| own | 7.0 |  | 1.0 | 6.0 | 1.0 | 2 | 3.00 |" in text
    assert "- bad, round 1: Boom" in text
    assert "- gone: not installed: no wheel" in text


def test_what_a_process_leaves_behind_is_ended(tmp_path):
    path = tmp_path / "pid"
    left = "child = subprocess.Popen(['sleep', '60'], start_new_session=True)"
    told = f"pathlib.Path({str(path)!r}).write_text(str(child.pid))"
    code = f"import pathlib, subprocess, time; {left}; {told}; time.sleep(2)"
    assert run_python(code, tmp_path).error is None
    sleeping = psutil.pid_exists(int(path.read_text())) and psutil.Process(int(path.read_text())).status()
    assert sleeping in (False, psutil.STATUS_ZOMBIE)

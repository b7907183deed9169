"""What it takes to start: commands, and the imports of each step in its pod.

Checkouts with a `.venv` are measured in turns, so that a noisy machine disturbs all alike. Seconds of processors are
told, which other processes disturb less than seconds by the clock.

Run: .venv/bin/python -m benchmarks.starting --output benchmarks/results/starting.json before=../other after=.
"""

from __future__ import annotations

import argparse
import ast
import itertools
import json
import os
import resource
import statistics
import subprocess
import tempfile
from pathlib import Path

from kfp_llm_batch.machine import read_machine

COMMANDS = {
    "import kfp_llm_batch": "python -c 'import kfp_llm_batch'",
    "import kfp_llm_batch.client": "python -c 'import kfp_llm_batch.client'",
    "kfp-llm-batch --help": "kfp-llm-batch --help",
    "kfp-llm-batch doctor": "kfp-llm-batch doctor",
    "kfp-llm-batch verify": "kfp-llm-batch verify $RESULT",
}
RUN = (
    "kfp-llm-batch run batch_inference -p dataset_uri={0}/rows.jsonl -p 'prompt_template={{{{ q }}}}' "
    "-p model_uri=echo:// -p output_uri={0}/result"
)


def step_imports(root: Path) -> dict[str, str]:
    """For each component a command that imports what its function does, as a pod does at its start."""
    commands = {}
    for path in sorted(root.glob("components/*/component.py")):
        tree = ast.parse(path.read_text("utf-8"))
        (function,) = (node for node in tree.body if isinstance(node, ast.FunctionDef))
        imports = [ast.unparse(node) for node in function.body if isinstance(node, ast.Import | ast.ImportFrom)]
        commands[f"step {path.parent.name}"] = f"python -c '{'; '.join(imports)}'"
    return commands


def processor_seconds(root: Path, command: str, result: str) -> float:
    """Of one run, children included.

    Raises:
        CalledProcessError: It failed.
    """
    environment = os.environ | {
        "PATH": f"{root / '.venv/bin'}{os.pathsep}{os.environ['PATH']}",
        "RESULT": result,
    }
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, shell=True, cwd=root, env=environment, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(roots: dict[str, Path], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of processors by command and checkout, one for each round."""
    commands = {root: COMMANDS | step_imports(path) for root, path in roots.items()}
    names = [*dict.fromkeys(name for each in commands.values() for name in each)]
    found: dict[str, dict[str, list[float]]] = {name: {root: [] for root in roots} for name in names}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "rows.jsonl").write_text('{"q": "one"}\n{"q": "two"}\n', encoding="utf-8")
        for path in roots.values():
            processor_seconds(path, f"{RUN.format(folder)} --overwrite", "")
        for index in range(rounds):
            for name, root in itertools.product(names, roots):
                seconds = processor_seconds(roots[root], commands[root][name], f"{folder}/result")
                found[name][root].append(round(seconds, 3))
                print(index, name, root, f"{seconds:.2f}", flush=True)
    return found


def main() -> None:
    """Measure, and write medians and all trials."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("roots", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    roots = {name: Path(folder).resolve() for name, folder in (text.split("=", 1) for text in options.roots)}
    trials = measure(roots, options.rounds)
    medians = {name: {root: statistics.median(times) for root, times in by.items()} for name, by in trials.items()}
    machine = read_machine()
    name = f"{machine.cpu_model}, {machine.instruction_set}, {machine.usable_cpus} threads"
    report = {"machine": name, "medians": medians, "trials": trials}
    options.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

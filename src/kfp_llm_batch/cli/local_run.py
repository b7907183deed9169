"""A compiled pipeline run on this machine through kfp.local, so that local and cluster share one path."""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any, TextIO

import yaml

from kfp_llm_batch import errors
from kfp_llm_batch.disk import temporary_folder
from kfp_llm_batch.shipped import CompiledPipeline

_INDENTATION = re.compile(r"^(    ){1,2}")
"""The runner indents what a step prints, once or twice."""
_COLOUR = re.compile(r"\x1b\[\d*m")
_EXECUTOR_LINE = "[KFP Executor"
_EXECUTOR_INPUT = "Got executor_input:"


def run_pipeline(
    pipeline: CompiledPipeline, arguments: dict[str, Any], *, in_docker: bool, keep: Path | None, verbose: bool
) -> None:
    """Run every step; a failing one ends the run with its own message.

    Raises:
        BatchError: Of the class that the failing step raised.
    """
    from kfp import components, local

    with temporary_folder() as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the runner warns of Kubernetes settings that mean nothing here
        root = _folder(Path(keep or temporary))
        message = root / ".message"
        message.write_text("", encoding="utf-8")
        runner = _docker_runner(message) if in_docker else local.SubprocessRunner(use_venv=False)
        local.init(runner, pipeline_root=str(root), raise_on_error=True)
        definition = temporary / "pipeline.yaml"
        definition.write_text(yaml.safe_dump_all(_for_local_run(pipeline, arguments)), encoding="utf-8")
        output = _StepOutput(sys.stderr, verbose=verbose)
        with _local_conditions(message, verbose=verbose), contextlib.redirect_stdout(output):
            try:
                components.load_component_from_file(str(definition))(**arguments)
            except OSError as error:
                if error.errno != errno.E2BIG:
                    raise
                # Linux takes 128 KiB in one argument, and KFP hands parameters over as one.
                raise errors.ConfigurationError(
                    f"The parameters cannot be handed to a step: {error.strerror}",
                    remedy="Keep them below 100 kB together; put long texts into the dataset.",
                ) from None
            except RuntimeError as error:
                raise _step_error(message.read_text(encoding="utf-8"), str(error)) from None
            finally:
                output.finish()
                message.unlink(missing_ok=True)


def _docker_runner(message: Path) -> Any:
    """Containers write into the mounted root as the user who runs this."""
    from kfp import local

    passed_on = ("KFP_LLM_BATCH_S3_", "STORAGE_EMULATOR_HOST", "AWS_", "HF_TOKEN")
    environment = {name: value for name, value in os.environ.items() if name.startswith(passed_on)}
    environment[errors.TERMINATION_LOG_VARIABLE] = str(message)
    return local.DockerRunner(network_mode="host", user=f"{os.getuid()}:{os.getgid()}", environment=environment)


def _folder(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise errors.ConfigurationError(f"--keep is no folder: {error.strerror}", received=str(path)) from error
    return path.absolute()


def _for_local_run(pipeline: CompiledPipeline, arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """The specification without retries, which would repeat a mistake three times, and with the image filled in."""
    specification = deepcopy(pipeline.specification)
    for graph in (specification["root"], *specification["components"].values()):
        for task in graph.get("dag", {}).get("tasks", {}).values():
            task.pop("retryPolicy", None)
    default = pipeline.inputs.get("runtime_image", {}).get("defaultValue")
    image = arguments.get("runtime_image", default)
    for executor in specification["deploymentSpec"]["executors"].values():
        if executor["container"]["image"].startswith("{{"):
            executor["container"]["image"] = image
    return [specification, *pipeline.documents[1:]]


@contextlib.contextmanager
def _local_conditions(message: Path, *, verbose: bool) -> Iterator[None]:
    """What the steps need to know of their surroundings, and what keeps the local runner from harm and noise."""
    environment, executable = dict(os.environ), sys.executable
    os.environ[errors.TERMINATION_LOG_VARIABLE] = str(message)
    if sys.stderr.isatty():
        os.environ["KFP_LLM_BATCH_TERMINAL"] = os.ttyname(sys.stderr.fileno())
    # kfp.local replaces the text "python3" by sys.executable in everything it hands to a step, prompts included.
    os.environ["PATH"] = f"{Path(executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    sys.executable = "python3"
    logging.disable(logging.NOTSET if verbose else logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        sys.executable = executable
        os.environ.clear()
        os.environ.update(environment)


def _step_error(message: str, runner_error: str) -> errors.BatchError:
    return errors.parse_message(message) or errors.BatchError(
        f"A step ended without a message of its own: {_COLOUR.sub('', runner_error)}",
        remedy="Its output is above; run again with --verbose to see everything.",
    )


class _StepOutput(io.TextIOBase):
    """Passes on what the steps print, without what KFP prints around it: its own lines and a dump of all inputs."""

    def __init__(self, target: TextIO, *, verbose: bool) -> None:
        self._target = target
        self._verbose = verbose
        self._rest = ""
        self._after_announcement = False
        self._dump_end: str | None = None

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if self._verbose or not self._is_noise(line):
                print(_INDENTATION.sub("", line), file=self._target, flush=True)
        return len(text)

    def finish(self) -> None:
        """Print what stands behind the last line's end."""
        if self._rest:
            self.write("\n")

    def _is_noise(self, line: str) -> bool:
        if self._dump_end is not None:
            self._dump_end = None if line == self._dump_end else self._dump_end
            return True
        if line.strip() == "{" and self._after_announcement:
            self._dump_end = line.replace("{", "}")
        self._after_announcement = line.endswith(_EXECUTOR_INPUT)
        return self._dump_end is not None or not line.strip(" -") or line.lstrip().startswith(_EXECUTOR_LINE)

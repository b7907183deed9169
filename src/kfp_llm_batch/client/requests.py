"""What is sent to create a run or a schedule: the same for a dry run, the contract's tests and the server."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.parameters import check_parameters
from kfp_llm_batch.shipped import CompiledPipeline, load_pipeline

RUNS_PATH = "/apis/v2beta1/runs"
RECURRING_RUNS_PATH = "/apis/v2beta1/recurringruns"
DEFAULT_EXPERIMENT = "Default"

_LOG = logging.getLogger("kfp_llm_batch")
_MAX_PARAMETER_BYTES = 10_000
"""What a server takes that was not told otherwise (MAX_PARAMETER_BYTES)."""
_VOLUME = re.compile(r"([a-z0-9]([-a-z0-9]*[a-z0-9])?):(/[^:]+)")


@dataclass(frozen=True, kw_only=True)
class CreateRequest:
    """One request that creates something in an experiment."""

    path: str
    experiment: str
    """Its id joins the body when the request is sent."""
    body: dict[str, Any]

    @property
    def name(self) -> str:
        """What the new thing is called."""
        return str(self.body["display_name"])

    @property
    def parameters(self) -> dict[str, Any]:
        """The checked parameters."""
        found: dict[str, Any] = self.body["runtime_config"]["parameters"]
        return found

    def as_dict(self) -> dict[str, Any]:
        """For a dry run."""
        return {"method": "POST", "path": self.path, "experiment": self.experiment, "body": self.body}


@dataclass(frozen=True, kw_only=True)
class Submission:
    """How a pipeline is run, besides its parameters.

    Args:
        experiment: Name of the experiment, which is created where it is missing.
        cache: Whether Kubeflow may take a step's outputs from an earlier run, where the pipeline allows it.
        service_account: Kubernetes service account of the pods; the server's own choice if empty.
        volume: PersistentVolumeClaim for all steps and its path there, such as models:/models; none if empty. It cannot
            be a parameter of a pipeline: where Kubeflow mounts a claim that a parameter names, a run without one fails.

    Raises:
        ConfigurationError: The experiment has no name, or the volume is none.
    """

    experiment: str = DEFAULT_EXPERIMENT
    cache: bool = True
    service_account: str = ""
    volume: str = ""

    def __post_init__(self) -> None:
        if not self.experiment:  # the server would take the first that it finds
            raise ConfigurationError("The experiment has no name", remedy="Leave it out for the one called Default.")
        if self.volume and not _VOLUME.fullmatch(self.volume):
            raise ConfigurationError(
                "A volume is the name of a PersistentVolumeClaim and the path for it in the pods",
                received=self.volume,
                remedy="Write it as models:/models.",
            )


def pipeline_of(pipeline: str | CompiledPipeline) -> CompiledPipeline:
    """A pipeline by name, path or as it is; errors as `load_pipeline`."""
    return load_pipeline(pipeline) if isinstance(pipeline, str) else pipeline


def create_request(
    path: str, pipeline: CompiledPipeline, parameters: Mapping[str, Any], name: str, submission: Submission | None
) -> CreateRequest:
    """What runs and schedules have in common.

    Raises:
        ConfigurationError: A parameter is wrong, or the pipeline is not one that Kubeflow would take.
    """
    submission = submission or Submission()
    checked = {key: value for key, value in check_parameters(pipeline, parameters).items() if value is not None}
    _warn_of_size(checked)
    body = {
        "display_name": name,
        "pipeline_spec": _specification(pipeline, submission),
        "runtime_config": {"parameters": checked},
    }
    if submission.service_account:
        body["service_account"] = submission.service_account
    return CreateRequest(path=path, experiment=submission.experiment, body=body)


def _specification(pipeline: CompiledPipeline, submission: Submission) -> dict[str, Any]:
    """The pipeline as the server takes it: alone, or beside its Kubernetes settings."""
    specification, *platforms = pipeline.documents
    specification = specification if submission.cache else _without_caching(specification)
    platform = {name: value for document in platforms for name, value in document.items()}
    if submission.volume:
        platform = _with_volume(platform, specification["deploymentSpec"]["executors"], submission.volume)
    try:
        json_format.ParseDict(specification, pipeline_spec_pb2.PipelineSpec())
        json_format.ParseDict(platform, pipeline_spec_pb2.PlatformSpec())
    except json_format.ParseError as error:
        raise ConfigurationError(f"Not a pipeline that Kubeflow takes: {error}", received=pipeline.name) from None
    return {"pipeline_spec": specification, "platform_spec": platform} if platform else specification


def _without_caching(specification: dict[str, Any]) -> dict[str, Any]:
    """Off for every task of every graph: kfp's own switch does not reach loops, conditions and exit handlers."""
    changed = deepcopy(specification)
    for definition in (changed["root"], *changed.get("components", {}).values()):
        for task in definition.get("dag", {}).get("tasks", {}).values():
            task["cachingOptions"] = {}
    return changed


def _with_volume(platform: dict[str, Any], executors: Iterable[str], volume: str) -> dict[str, Any]:
    claim, _, path = volume.partition(":")
    changed = deepcopy(platform)
    settings = changed.setdefault("platforms", {}).setdefault("kubernetes", {}).setdefault("deploymentSpec", {})
    for name in executors:
        mounts = settings.setdefault("executors", {}).setdefault(name, {}).setdefault("pvcMount", [])
        mounts.append({"mountPath": path, "pvcNameParameter": {"runtimeValue": {"constant": claim}}})
    return changed


def _warn_of_size(parameters: Mapping[str, Any]) -> None:
    size = len(json.dumps(parameters))
    if size > _MAX_PARAMETER_BYTES:
        _LOG.warning(
            "The parameters take %d bytes; a server with its own settings refuses more than %d.",
            size,
            _MAX_PARAMETER_BYTES,
        )

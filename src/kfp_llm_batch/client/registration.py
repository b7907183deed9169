"""Pipelines registered on the server, where the Kubeflow UI offers them with a form."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import kfp
import yaml

from kfp_llm_batch import __version__
from kfp_llm_batch.client.connection import connect
from kfp_llm_batch.client.experiments import namespace_of
from kfp_llm_batch.client.failures import ExistsOnServerError, server_errors
from kfp_llm_batch.client.paging import pages
from kfp_llm_batch.client.requests import pipeline_of
from kfp_llm_batch.disk import temporary_folder
from kfp_llm_batch.shipped import CompiledPipeline


@dataclass(frozen=True, kw_only=True)
class Registration:
    """A registered pipeline."""

    name: str
    pipeline_id: str
    version: str
    """This package's version and a digest of the pipeline: the same pipeline is the same version."""
    change: Literal["created", "updated", "unchanged"]
    """What `register` did."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dict(vars(self))


def register(pipeline: str | CompiledPipeline, *, client: kfp.Client | None = None) -> Registration:
    """Upload a pipeline, or a new version of it if it is not the one that the server has.

    Args:
        pipeline: Name of a shipped pipeline, path of a compiled one, or a loaded one.
        client: Connection to the server.

    Raises:
        ConfigurationError: There is no such pipeline.
        ServerError: The server did not answer, or refused.
    """
    pipeline, client = pipeline_of(pipeline), client or connect()
    text = yaml.safe_dump_all(pipeline.documents)
    version = f"{__version__}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    with temporary_folder() as folder:
        file = folder / "pipeline.yaml"
        file.write_text(text, encoding="utf-8")
        pipeline_id, is_new = _pipeline_id(client, pipeline, file)
        is_added = _add_version(client, pipeline_id, version, file)
    return Registration(
        name=pipeline.title,
        pipeline_id=pipeline_id,
        version=version,
        change="created" if is_new else "updated" if is_added else "unchanged",
    )


def _pipeline_id(client: kfp.Client, pipeline: CompiledPipeline, file: Path) -> tuple[str, bool]:
    what, where = f"The pipeline {pipeline.title!r} cannot be registered", namespace_of(client)
    for entry in pages(what, client.list_pipelines, "pipelines", name=pipeline.title, **where):
        return str(entry.pipeline_id), False
    description = pipeline.specification["pipelineInfo"].get("description", "")
    with server_errors(what):
        made = client.pipeline_uploads.upload_pipeline(str(file), name=pipeline.title, description=description, **where)
    return str(made.pipeline_id), True


def _add_version(client: kfp.Client, pipeline_id: str, version: str, file: Path) -> bool:
    """Upload the version; False if the server has it already."""
    try:
        with server_errors(f"The version {version} cannot be registered"):
            client.pipeline_uploads.upload_pipeline_version(str(file), name=version, pipelineid=pipeline_id)
    except ExistsOnServerError:
        return False
    return True

"""What a Kubeflow Pipelines server keeps and how it behaves, as far as a client notices: its traps as well."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from tests.kubeflow.robfig_cron import parse_robfig

Record = dict[str, Any]
MAX_PARAMETER_BYTES = 10_000
_TYPES: dict[str, tuple[type, ...]] = {
    "STRING": (str,),
    "NUMBER_INTEGER": (int,),
    "NUMBER_DOUBLE": (int, float),
    "BOOLEAN": (bool,),
    "LIST": (list,),
    "STRUCT": (dict,),
}
_GRAPH_STATES = ("PENDING", "RUNNING")


class RefusalError(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class KubeflowState:
    """Everything that the server keeps, in memory."""

    multi_user: bool = False
    next_states: tuple[str, ...] = ("PENDING", "RUNNING", "SUCCEEDED")
    """What a new run goes through, a step each time it is looked at; the last one stays."""
    experiments: dict[str, Record] = field(default_factory=dict)
    runs: dict[str, Record] = field(default_factory=dict)
    recurring_runs: dict[str, Record] = field(default_factory=dict)
    pipelines: dict[str, Record] = field(default_factory=dict)
    versions: dict[str, Record] = field(default_factory=dict)
    _states: dict[str, list[str]] = field(default_factory=dict)
    _seconds: itertools.count[int] = field(default_factory=itertools.count)

    def operation(self, name: str) -> Callable[..., Record]:
        """The method for an operation of the contract: RunService_CreateRun is create_run."""
        method = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.rpartition("_")[2]).lower()
        found: Callable[..., Record] | None = getattr(self, method, None)
        if found is None:
            raise RefusalError(501, f"{name} is not implemented")
        return found

    def get_healthz(self) -> Record:
        return {"multi_user": self.multi_user}

    # Experiments

    def create_experiment(self, body: Record) -> Record:
        self._check_namespace(body.get("namespace", ""))
        same = {"display_name": body["display_name"], "namespace": body.get("namespace", "")}
        if any(same.items() <= entry.items() for entry in self.experiments.values()):
            raise RefusalError(409, f"Experiment {body['display_name']} already exists")
        record = {**body, "experiment_id": _id(), "created_at": self._now(), "storage_state": "AVAILABLE"}
        self.experiments[record["experiment_id"]] = {"namespace": "", **record}
        return record

    def list_experiments(self, query: dict[str, str]) -> Record:
        self._check_namespace(query.get("namespace", ""))
        return _page("experiments", self.experiments, query, namespace=query.get("namespace") or None)

    def get_experiment(self, experiment_id: str) -> Record:
        return _get(self.experiments, experiment_id)

    # Runs

    def create_run(self, body: Record) -> Record:
        experiment = _get(self.experiments, body.get("experiment_id", ""))
        _check_pipeline(body)
        record = {
            **body,
            "run_id": _id(),
            "experiment_id": experiment["experiment_id"],
            "created_at": self._now(),
            "storage_state": "AVAILABLE",
        }
        self.runs[record["run_id"]] = record
        self._states[record["run_id"]] = list(self.next_states)
        return record  # a run that has just been created has no state yet

    def list_runs(self, query: dict[str, str]) -> Record:
        if "experiment_id" not in query:
            self._check_namespace(query.get("namespace", ""))
        return _page("runs", self.runs, query, experiment_id=query.get("experiment_id"))

    def get_run(self, run_id: str) -> Record:
        record = _get(self.runs, run_id)
        states = self._states[run_id]
        record["state"] = states.pop(0) if len(states) > 1 else states[0]
        if record["state"] not in (*_GRAPH_STATES, "CANCELING", "PAUSED"):
            record["finished_at"] = self._now()
        if record["state"] == "FAILED":
            record["run_details"] = _details_of_a_failed_run(run_id)
        return record

    def terminate_run(self, run_id: str) -> Record:
        _get(self.runs, run_id)
        self._states[run_id] = ["CANCELING", "CANCELED"]
        return {}

    # Recurring runs: there is no way to change one

    def create_recurring_run(self, body: Record) -> Record:
        experiment = _get(self.experiments, body.get("experiment_id", ""))
        _check_pipeline(body)
        if not 1 <= int(body.get("max_concurrency", 0)) <= 10:
            raise RefusalError(400, "max_concurrency must be in [1, 10]")
        try:
            parse_robfig(body["trigger"]["cron_schedule"]["cron"])
        except ValueError as error:
            raise RefusalError(400, f"Schedule cron is not supported: {error}") from None
        record = {
            **{name: value for name, value in body.items() if name != "mode"},
            "recurring_run_id": _id(),
            "namespace": experiment["namespace"],
            "created_at": self._now(),
            "status": f"{body['mode']}D",
            "service_account": body.get("service_account", "pipeline-runner"),
        }
        self.recurring_runs[record["recurring_run_id"]] = record
        return record

    def list_recurring_runs(self, query: dict[str, str]) -> Record:
        self._check_namespace(query.get("namespace", ""))
        return _page("recurringRuns", self.recurring_runs, query, namespace=query.get("namespace") or None)

    def get_recurring_run(self, recurring_run_id: str) -> Record:
        return _get(self.recurring_runs, recurring_run_id)

    def delete_recurring_run(self, recurring_run_id: str) -> Record:
        _get(self.recurring_runs, recurring_run_id)
        del self.recurring_runs[recurring_run_id]
        return {}

    def enable_recurring_run(self, recurring_run_id: str) -> Record:
        _get(self.recurring_runs, recurring_run_id)["status"] = "ENABLED"
        return {}

    def disable_recurring_run(self, recurring_run_id: str) -> Record:
        _get(self.recurring_runs, recurring_run_id)["status"] = "DISABLED"
        return {}

    def fire(self, recurring_run_id: str, moment: dt.datetime) -> str:
        """Start the run that is due at `moment`; gives its id. Macros are replaced in parameters that are texts."""
        record = self.recurring_runs[recurring_run_id]
        parameters = record["runtime_config"]["parameters"]
        replaced = {name: _without_macros(value, moment) for name, value in parameters.items()}
        names = ("experiment_id", "pipeline_spec", "service_account")
        run = self.create_run(
            {
                **{name: record[name] for name in names},
                "display_name": f"{record['display_name']}-{moment:%Y%m%d}",
                "runtime_config": {**record["runtime_config"], "parameters": replaced},
                "recurring_run_id": recurring_run_id,
            }
        )
        return str(run["run_id"])

    # Pipelines

    def upload_pipeline(self, query: dict[str, str], file: bytes) -> Record:
        name = query["name"]
        if any(entry["name"] == name for entry in self.pipelines.values()):
            raise RefusalError(409, f"Pipeline {name} already exists")
        record = {"pipeline_id": _id(), "name": name, "display_name": name, "created_at": self._now()}
        if "description" in query:
            record["description"] = query["description"]
        self.pipelines[record["pipeline_id"]] = record
        self._add_version(record["pipeline_id"], name, file)
        return record

    def upload_pipeline_version(self, query: dict[str, str], file: bytes) -> Record:
        _get(self.pipelines, query["pipelineid"])
        return self._add_version(query["pipelineid"], query["name"], file)

    def list_pipelines(self, query: dict[str, str]) -> Record:
        return _page("pipelines", self.pipelines, query)

    def list_pipeline_versions(self, query: dict[str, str], pipeline_id: str) -> Record:
        return _page("pipeline_versions", self.versions, query, pipeline_id=pipeline_id)

    def _add_version(self, pipeline_id: str, name: str, file: bytes) -> Record:
        if any(entry["name"] == name and entry["pipeline_id"] == pipeline_id for entry in self.versions.values()):
            raise RefusalError(409, f"Version {name} already exists")
        specification, *platforms = [document for document in yaml.safe_load_all(file) if document]
        content = {"pipeline_spec": specification, "platform_spec": platforms[0]} if platforms else specification
        _check_pipeline({"pipeline_spec": content, "runtime_config": None})
        record = {
            "pipeline_version_id": _id(),
            "pipeline_id": pipeline_id,
            "name": name,
            "display_name": name,
            "created_at": self._now(),
            "pipeline_spec": content,
        }
        self.versions[str(record["pipeline_version_id"])] = record
        return record

    def _check_namespace(self, namespace: str) -> None:
        if namespace and not self.multi_user:
            raise RefusalError(400, "In single-user mode, a request cannot name a namespace")
        if self.multi_user and not namespace:
            raise RefusalError(400, "In multi-user mode, a request must name a namespace")
        if namespace == "somebody-else":
            raise RefusalError(403, "User is not authorized with reason: BAD PERMISSION")

    def _now(self) -> str:
        """A second later each time, so that things have an order."""
        start = dt.datetime(2026, 1, 5, 3, tzinfo=dt.UTC)
        return (start + dt.timedelta(seconds=next(self._seconds))).isoformat().replace("+00:00", "Z")


def _id() -> str:
    return str(uuid.uuid4())


def _get(records: dict[str, Record], key: str) -> Record:
    if key not in records:
        raise RefusalError(404, f"ResourceNotFoundError: {key or 'no id'} not found")
    return records[key]


def _page(name: str, records: dict[str, Record], query: dict[str, str], **wanted: str | None) -> Record:
    """A page of what is wanted, at most two entries long so that every list of three has several."""
    conditions = {key: value for key, value in wanted.items() if value is not None}
    if query.get("filter"):
        (predicate,) = json.loads(query["filter"])["predicates"]
        assert predicate["operation"] in (1, "EQUALS")
        conditions[predicate["key"]] = predicate["stringValue"]
    found = [entry for entry in records.values() if conditions.items() <= entry.items()]
    if query.get("sort_by", "").endswith(" desc"):
        found.reverse()
    start = int(query.get("page_token") or 0)
    page: Record = {name: found[start : start + 2], "total_size": len(found)}
    if start + 2 < len(found):
        page["next_page_token"] = str(start + 2)
    return page


def _check_pipeline(body: Record) -> None:
    content: Record = body.get("pipeline_spec") or {}
    specification: Record = content.get("pipeline_spec", content)
    try:
        json_format.ParseDict(specification, pipeline_spec_pb2.PipelineSpec())
        json_format.ParseDict(content.get("platform_spec", {}), pipeline_spec_pb2.PlatformSpec())
    except json_format.ParseError as error:
        raise RefusalError(400, f"Invalid pipeline spec: {error}") from None
    if body["runtime_config"] is not None:
        root: Record = specification["root"]
        declared = root.get("inputDefinitions", {}).get("parameters", {})
        _check_parameters(declared, body["runtime_config"].get("parameters", {}))


def _check_parameters(declared: Record, given: Record) -> None:
    if len(json.dumps(given)) > MAX_PARAMETER_BYTES:
        raise RefusalError(400, "The input parameter length exceed maximum size of 10000")
    for name, entry in declared.items():
        if name not in given and not entry.get("isOptional") and "defaultValue" not in entry:
            raise RefusalError(400, f"parameter {name} is required")
    for name, value in given.items():
        if name not in declared:
            raise RefusalError(400, f"parameter {name} is not declared")
        kind = declared[name]["parameterType"]
        if not isinstance(value, _TYPES[kind]) or (isinstance(value, bool) and kind != "BOOLEAN"):
            raise RefusalError(400, f"input parameter {name} requires type {kind}")


def _details_of_a_failed_run(run_id: str) -> Record:
    """The step that failed, and graphs around it that nobody ever set to another state."""
    step = {"run_id": run_id, "task_id": "2", "display_name": "generate-completions", "state": "FAILED"}
    step["parent_task_id"] = "1"
    graph = {"run_id": run_id, "task_id": "1", "display_name": "root", "state": "RUNNING"}
    message = "EngineError: The engine ended."
    return {
        "task_details": [
            {**graph, "child_tasks": [{"task_id": "2"}]},
            {**step, "error": {"code": 2, "message": message}},
        ]
    }


def _without_macros(value: Any, moment: dt.datetime) -> Any:
    if not isinstance(value, str):
        return value
    utc = moment.astimezone(dt.UTC)
    value = value.replace("[[ScheduledTime]]", f"{utc:%Y%m%d%H%M%S}").replace("[[Index]]", "1")
    return value.replace("[[ScheduledTime.2006-01-02]]", f"{utc:%Y-%m-%d}")

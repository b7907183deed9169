"""Runs and schedules on Kubeflow Pipelines, from a notebook or a program; thin over kfp.Client.

from kfp_llm_batch.client import results, submit, wait

run = submit("batch_inference", {"dataset_uri": "s3://data/questions.jsonl", "output_uri": "s3://results/first"})
wait(run.run_id)
table = results(run).to_pandas()
"""

from kfp_llm_batch.client.connection import connect
from kfp_llm_batch.client.cron import CronSchedule, parse_cron
from kfp_llm_batch.client.registration import Registration, register
from kfp_llm_batch.client.requests import CreateRequest, Submission
from kfp_llm_batch.client.results import Result, results
from kfp_llm_batch.client.runs import Run, get_run, list_runs, run_request, send_run, submit, wait
from kfp_llm_batch.client.schedules import (
    Change,
    Recurrence,
    Schedule,
    delete,
    disable,
    enable,
    list_schedules,
    schedule,
    schedule_request,
    send_schedule,
)

__all__ = [
    "Change",
    "CreateRequest",
    "CronSchedule",
    "Recurrence",
    "Registration",
    "Result",
    "Run",
    "Schedule",
    "Submission",
    "connect",
    "delete",
    "disable",
    "enable",
    "get_run",
    "list_runs",
    "list_schedules",
    "parse_cron",
    "register",
    "results",
    "run_request",
    "schedule",
    "schedule_request",
    "send_run",
    "send_schedule",
    "submit",
    "wait",
]

"""The result of a finished run, opened where one works with it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import kfp
import pyarrow as pa
import pyarrow.json as pj
import pyarrow.parquet as pq

from kfp_llm_batch.client.runs import Run, get_run
from kfp_llm_batch.disk import temporary_folder
from kfp_llm_batch.errors import ConfigurationError, ResultError
from kfp_llm_batch.manifests import ResultManifest
from kfp_llm_batch.results.formats import EXTENSIONS
from kfp_llm_batch.results.publishing import existing_result, fetch_result
from kfp_llm_batch.storage.uris import join_uri

if TYPE_CHECKING:
    import datasets
    import pandas as pd

OUTPUT_PARAMETER = "output_uri"
_READERS = {"parquet": pq.read_table, "jsonl": pj.read_json}


@dataclass(frozen=True)
class Result:
    """A stored result; every file is held against the manifest when it is fetched.

    Args:
        uri: Where the run wrote to.
        run_id: The run's id, for a pipeline that gives each run a folder of its own below that.
    """

    uri: str
    run_id: str = ""

    @property
    def manifest(self) -> ResultManifest:
        """What it holds: rows by status, tokens, model, settings, timings.

        Raises:
            ResultError: There is none.
            StorageError: The store does not answer or refuses.
        """
        return self._found[1]

    @cached_property
    def _found(self) -> tuple[str, ResultManifest]:
        """Address and manifest."""
        for address in (self.uri, join_uri(self.uri, self.run_id)) if self.run_id else (self.uri,):
            if manifest := existing_result(address):
                return address, manifest
        raise ResultError("There is no result", received=self.uri, remedy="Did the run succeed?")

    def to_arrow(self, columns: list[str] | None = None) -> pa.Table:
        """All rows, or some columns of them, as an Arrow table.

        Raises:
            ResultError: There is none, or a file is not what the manifest says.
            StorageError: The store does not answer or refuses.
        """
        with temporary_folder() as folder:
            manifest = fetch_result(self._found[0], folder)
            read = _READERS[EXTENSIONS[manifest.output_format]]
            # In JSON lines a column can be all null in one part and text in the next.
            tables = [read(folder / part.path) for part in manifest.parts]
            table = pa.concat_tables(tables, promote_options="permissive") if tables else pa.table({})
            return table.select(columns) if columns else table

    def to_pandas(self, columns: list[str] | None = None) -> pd.DataFrame:
        """All rows, or some columns of them, as a pandas DataFrame; errors as `to_arrow`."""
        return self.to_arrow(columns).to_pandas()

    def to_dataset(self, columns: list[str] | None = None) -> datasets.Dataset:
        """All rows, or some columns of them, as a datasets.Dataset; errors as `to_arrow`."""
        from datasets import Dataset

        return Dataset(self.to_arrow(columns))


def results(run: Run | str, *, client: kfp.Client | None = None) -> Result:
    """The result that a run wrote to its `output_uri`.

    Args:
        run: A run or its id.
        client: Connection to the server.

    Raises:
        ConfigurationError: The run has no such parameter.
        ServerError: There is no such run, or the server did not answer.
    """
    run = get_run(run, client) if isinstance(run, str) else run
    uri = str(run.parameters.get(OUTPUT_PARAMETER, ""))
    if not uri or re.search(r"\[\[\w+", uri):
        raise ConfigurationError(
            f"The run {run.name!r} does not say where its result is",
            received=uri,
            remedy=f"Open it by its address: Result(uri). It is looked for in the parameter {OUTPUT_PARAMETER}.",
        )
    return Result(uri, run.run_id)

import pytest

from kfp_llm_batch.client import Result, results, submit, wait
from kfp_llm_batch.errors import ResultError
from kfp_llm_batch.results.publishing import publish_result


@pytest.mark.parametrize("output_format", ["parquet", "jsonl", "openai"])
def test_the_result_of_a_run_opens_as_a_table(output_format, server, client, make_result, tmp_path):
    uri = str(tmp_path / "published")
    publish_result(make_result(), uri, output_format=output_format)
    run = submit("batch_inference", {"dataset_uri": "q.jsonl", "output_uri": uri}, client=client)
    result = results(wait(run.run_id, interval_seconds=0.01, client=client))
    assert result.manifest.rows_out == result.to_arrow().num_rows == 25
    identity = "custom_id" if output_format == "openai" else "row_id"
    assert list(result.to_pandas([identity])[identity])[:2] == ["row-0", "row-1"]


def test_the_result_is_found_in_the_runs_own_folder_as_well(server, client, make_result, tmp_path):
    run = submit("batch_inference", {"dataset_uri": "q.jsonl", "output_uri": str(tmp_path / "all")}, client=client)
    make_result(f"all/{run.run_id}")
    assert results(run).to_arrow().num_rows == 25


def test_the_result_opens_as_a_dataset(make_result):
    dataset = Result(str(make_result())).to_dataset(["row_id", "completion"])
    assert dataset.column_names == ["row_id", "completion"]
    assert dataset.num_rows == 25


def test_a_result_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ResultError, match="There is no result"):
        _ = Result(str(tmp_path / "missing")).manifest


def test_a_damaged_result_is_not_opened(make_result):
    folder = make_result()
    part = next(folder.glob("parts/*"))
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(ResultError):
        Result(str(folder)).to_arrow()

"""Which values of the source columns count as the same."""

import pyarrow as pa
import pytest

from kfp_llm_batch.results.carried_columns import json_column, rows_that_differ

NAN = float("nan")


@pytest.mark.parametrize(
    ("kind", "left", "right", "differing"),
    [
        (pa.float64(), [1.0, NAN, None], [1.0, NAN, None], []),
        (pa.float64(), [NAN, NAN, None, 0.0], [NAN, None, NAN, 1.0], [1, 2, 3]),
        (pa.list_(pa.float32()), [[1, NAN], [NAN], None, []], [[1, NAN], [NAN, NAN], [], None], [1, 2, 3]),
        (pa.list_(pa.float32(), 2), [[1, NAN], None, [NAN, 1]], [[1, NAN], None, [NAN, 2]], [2]),
        (pa.map_(pa.string(), pa.float64()), [[("a", NAN)], [("b", NAN)]], [[("a", NAN)], [("c", NAN)]], [1]),
        (pa.struct({"x": pa.float64()}), [{"x": NAN}, {"x": None}, None], [{"x": NAN}, None, {"x": None}], [1, 2]),
        (pa.string(), ["a", "b", None], ["a", "B", ""], [1, 2]),
    ],
    ids=str,
)
def test_nan_equals_nan_and_nothing_else(kind, left, right, differing):
    first, second = pa.array([None, *left], kind), pa.array([None, *right], kind)
    assert rows_that_differ(first.slice(1), second.slice(1)) == differing


def test_json_values_are_equal_in_kind_as_well():
    left, right = json_column([1, 1, 1, None, {"a": 1}]), json_column([1, 1.0, True, 0, {"a": "1"}])
    assert rows_that_differ(left, right) == [1, 2, 3, 4]

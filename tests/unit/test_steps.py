from kfp_llm_batch.steps import with_whole_numbers


def test_whole_numbers_come_back_and_others_stay():
    value = {"top_k": 20.0, "min_p": 0.5, "list": [1.0, True, None, "1.0"]}
    assert with_whole_numbers(value) == {"top_k": 20, "min_p": 0.5, "list": [1, True, None, "1.0"]}
    assert isinstance(with_whole_numbers(value)["top_k"], int)
    assert with_whole_numbers(value)["list"][1] is True

"""The search for garbage while rows go by."""

import gc

from kfp_llm_batch.garbage import rare_garbage_collection


def test_it_is_rare_inside_and_as_before_outside():
    before = gc.get_threshold()
    with rare_garbage_collection():
        assert gc.get_threshold()[0] > 10 * before[0]
        assert gc.get_freeze_count() > 10_000
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0

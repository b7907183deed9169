"""KFP step: one pod answers its shards."""

from kfp import dsl
from kfp_llm_batch.components.step_component import step_component


@step_component
def generate_shards(
    manifests: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    shards_uri: str,
    storage_endpoint: str = "",
    engine_cache: dsl.Input[dsl.Artifact] = None,
) -> None:
    """Answer some shards of a job with vLLM; their parts go straight to the result's place in the store.

    Args:
        manifests: What was answered of each shard, as JSON.
        metrics: Rows by status, tokens and tokens per second.
        shards_uri: Address of the job with numbers of shards behind "#"; without them all that are not answered yet.
        engine_cache: What warm_shards compiled.
    """
    from pathlib import Path

    from kfp_llm_batch.sharding.attempts import answer_shards
    from kfp_llm_batch.sharding.job import JobAddress
    from kfp_llm_batch.sharding.report import manifests_json, shard_metrics
    from kfp_llm_batch.sharding.warming import compiled_in
    from kfp_llm_batch.steps import step, write_outputs

    with step(storage_endpoint):
        cache = compiled_in(Path(engine_cache.path)) if engine_cache else None
        answered = answer_shards(JobAddress.parse(shards_uri), cache)
        for name, value in shard_metrics(answered).items():
            metrics.log_metric(name, value)
        write_outputs({manifests.path: manifests_json(answered)})

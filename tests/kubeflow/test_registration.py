import copy

import yaml

from kfp_llm_batch.client import register
from kfp_llm_batch.shipped import CompiledPipeline, load_pipeline, shipped_pipelines


def test_a_pipeline_is_registered_once(server, client):
    first = register("batch_inference", client=client)
    assert first.change == "created"
    assert register("batch_inference", client=client).change == "unchanged"
    (pipeline,) = server.state.pipelines.values()
    assert (pipeline["pipeline_id"], pipeline["display_name"]) == (first.pipeline_id, "batch-inference")
    assert pipeline["description"] == load_pipeline("batch_inference").specification["pipelineInfo"]["description"]


def test_a_changed_pipeline_is_a_new_version_of_the_same(server, client):
    first = register("batch_inference", client=client)
    documents = copy.deepcopy(load_pipeline("batch_inference").documents)
    documents[0]["root"]["inputDefinitions"]["parameters"]["dataset_limit"]["defaultValue"] = 7.0
    second = register(CompiledPipeline(name="changed", documents=documents), client=client)
    assert (second.change, second.pipeline_id) == ("updated", first.pipeline_id)
    assert second.version != first.version
    newest = list(server.state.versions.values())[-1]
    assert newest["pipeline_spec"] == {"pipeline_spec": documents[0], "platform_spec": documents[1]}


def test_every_shipped_pipeline_can_be_registered(server, client):
    for name in shipped_pipelines():
        register(name, client=client)
    titles = {load_pipeline(name).title for name in shipped_pipelines()}
    assert {pipeline["name"] for pipeline in server.state.pipelines.values()} == titles


def test_what_is_uploaded_is_the_pipeline(server, client):
    register("batch_inference", client=client)
    stored = next(iter(server.state.versions.values()))["pipeline_spec"]
    assert stored["pipeline_spec"] == yaml.safe_load(yaml.safe_dump(load_pipeline("batch_inference").specification))

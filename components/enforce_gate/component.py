"""KFP step: fails where the gate's outcome may not go on."""

from kfp_llm_batch.components.step_component import step_component


@step_component
def enforce_gate(outcome: str, gate_action: str = "fail", run_uri: str = "") -> str:
    """End the pipeline with an error, or let it go on, by the gate's outcome.

    Args:
        outcome: What compare_evaluations found.
        run_uri: Folder of the run, for the message.

    Returns:
        The outcome.
    """
    from kfp_llm_batch.evaluation import gate
    from kfp_llm_batch.steps import step

    with step(""):
        gate.enforce(outcome, gate.GateConfig(action=gate_action), run_uri)
    return outcome

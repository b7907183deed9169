"""KFP step: a plain model becomes a smaller checkpoint, compared with the original on held-out prompts."""

from kfp import dsl
from kfp_llm_batch.components.step_component import step_component


@step_component
def quantize_model(
    prompts: dsl.Input[dsl.Dataset],
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.Markdown],
    model_uri: str = "demo://smollm2-135m-instruct",
    model_revision: str = "",
    quantization_scheme: str = "w8a8_int8",
    output_uri: str = "",
    output_overwrite: bool = False,
    evaluation_rows: int = 64,
    evaluation_max_tokens: int = 64,
    storage_endpoint: str = "",
) -> None:
    """Round a model's weights to 8 or 4 bits, and measure with vLLM what that costs.

    Args:
        prompts: Folder written by load_dataset; held-out prompts that both models answer.
        model: The checkpoint, as compressed-tensors, with a manifest.
        metrics: Agreement, perplexity, size and speed of both models.
        report: The same for people, with the layers that stay and answers that differ.
        model_uri: demo://, a folder with safetensors, a .gguf file, hf://org/name, s3:// or gs:// address.
        quantization_scheme: w8a8_int8 or w4a16.
        output_uri: Folder path, s3:// or gs:// address where the checkpoint is published; only the artifact if empty.
        output_overwrite: Whether another quantized checkpoint there may be replaced.
        evaluation_rows: Most prompts that are compared, a fair sample of the dataset.
        evaluation_max_tokens: Most new tokens per answer.
    """
    parameters = dict(locals())
    from pathlib import Path

    from kfp_llm_batch.quantization import quantizing
    from kfp_llm_batch.quantization import report as reports
    from kfp_llm_batch.quantization.config import QuantizationConfig
    from kfp_llm_batch.steps import from_parameters, step, write_outputs

    with step(storage_endpoint):
        config = from_parameters(QuantizationConfig, parameters, "quantization_")
        outcome = quantizing.quantize(config, Path(prompts.path), Path(model.path))
        for name, value in reports.metrics(outcome).items():
            metrics.log_metric(name, value)
        write_outputs({report.path: reports.markdown_report(outcome)})
        model.metadata.update(scheme=quantization_scheme, source=outcome.model.uri, digest=outcome.model.digest)

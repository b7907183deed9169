"""What is known of the demo model's files, for plans that are made without them."""

from kfp_llm_batch.models.resolving import ModelFacts

MODEL = ModelFacts(
    max_model_len=8192,
    kv_bytes_per_token=23040,
    weight_bytes=269 * 10**6,
    vocab_size=49152,
    hidden_size=576,
    intermediate_size=1536,
    dtype="bfloat16",
)

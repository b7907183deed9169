import json
from pathlib import Path

import pytest

from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.machine import read_machine
from kfp_llm_batch.models.quantized_formats import (
    AWQ,
    COMPRESSED_FP8,
    FP8,
    GPTQ,
    W4A8_INT,
    W4A16,
    W8A8_INT8,
    check_quantized_formats,
    quantized_formats,
    supported_formats,
    unsupported_reason,
)
from kfp_llm_batch.models.resolving import resolve_model

INT8 = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}
INT4 = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 128}
FLOAT8 = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "channel"}
FLOAT4 = {"num_bits": 4, "type": "float", "symmetric": True, "strategy": "tensor_group"}
CONFIG = {
    "num_attention_heads": 8,
    "num_hidden_layers": 4,
    "hidden_size": 64,
    "max_position_embeddings": 2048,
    "vocab_size": 1000,
}


def compressed(layout: str, *groups: dict[str, object]) -> dict[str, object]:
    return {
        "quant_method": "compressed-tensors",
        "format": layout,
        "config_groups": {f"group_{index}": group for index, group in enumerate(groups)},
    }


def write_model(folder: Path, declared: object = None, key: str = "quantization_config") -> Path:
    folder.mkdir(exist_ok=True)
    config = CONFIG if declared is None else {**CONFIG, key: declared}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"w" * 300)
    return folder


@pytest.mark.parametrize(
    ("name", "needs"),
    [
        # one column for each of AMX-BF16, AVX512-BF16, AVX512-VNNI, AVX512, AVX2, ARM-BF16, SVE, NEON, generic
        (W8A8_INT8, "yes yes yes yes yes yes yes yes no"),
        (W4A16, "yes yes yes yes no no no no no"),
        (AWQ, "yes yes yes yes no no no no no"),
        (GPTQ, "yes yes yes yes no no no no no"),
        (W4A8_INT, "no no no no no yes yes yes no"),
        (FP8, "yes no no no no no no no no"),
        (COMPRESSED_FP8, "yes no no no no no no no no"),
        ("bitsandbytes", "no no no no no no no no no"),
        ("mxfp4", "no no no no no no no no no"),
        ("gguf", "no no no no no no no no no"),
        ("gptq 8-bit", "no no no no no no no no no"),
    ],
)
def test_what_has_a_kernel_where(name, needs):
    sets = ["AMX-BF16", "AVX512-BF16", "AVX512-VNNI", "AVX512", "AVX2", "ARM-BF16", "SVE", "NEON", "generic"]
    found = ["no" if unsupported_reason(name, instruction_set) else "yes" for instruction_set in sets]
    assert " ".join(found) == needs


def test_a_reason_names_what_is_needed_and_what_is_there():
    assert unsupported_reason(W4A16, "AVX2") == "its kernel needs AVX512, and this CPU has AVX2"
    assert unsupported_reason("mxfp4", "AMX-BF16") == "vLLM has no kernel for it on CPU"
    assert supported_formats("AVX2") == [W8A8_INT8]


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        (None, ()),
        ({}, ()),
        (compressed("int-quantized", {"weights": INT8, "input_activations": INT8}), (W8A8_INT8,)),
        (compressed("pack-quantized", {"weights": INT4, "input_activations": None}), (W4A16,)),
        (compressed("pack-quantized", {"weights": {**INT4, "symmetric": False}}), (W4A16,)),
        (compressed("pack-quantized", {"weights": {**INT4, "actorder": "weight"}}), (W4A16,)),
        (
            compressed("pack-quantized", {"weights": {**INT4, "actorder": "group"}}),
            (f"{W4A16} with activation order",),
        ),
        (compressed("int-quantized", {"weights": INT4, "input_activations": INT8}), (W4A8_INT,)),
        (compressed("float-quantized", {"weights": FLOAT8, "input_activations": FLOAT8}), (COMPRESSED_FP8,)),
        (compressed("nvfp4-pack-quantized", {"weights": FLOAT4}), ("compressed-tensors nvfp4-pack-quantized",)),
        (compressed("pack-quantized", {"weights": INT8}), ("compressed-tensors pack-quantized",)),
        (
            compressed("int-quantized", {"weights": {**INT8, "symmetric": False}, "input_activations": INT8}),
            (f"{W8A8_INT8} asymmetric",),
        ),
        (
            compressed(
                "mixed-precision",
                {"weights": INT8, "input_activations": INT8, "format": "int-quantized"},
                {"weights": INT4, "format": "pack-quantized"},
            ),
            (W4A16, W8A8_INT8),
        ),
        (compressed("dense"), ("compressed-tensors dense",)),
        ({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}, (AWQ,)),
        ({"quant_method": "AWQ", "w_bit": 4}, (AWQ,)),
        ({"quant_method": "gptq", "bits": 4, "sym": True, "desc_act": False}, (GPTQ,)),
        ({"quant_method": "gptq", "bits": 8, "sym": True}, ("gptq 8-bit",)),
        ({"quant_method": "gptq", "bits": 4, "sym": False}, ("gptq 4-bit asymmetric",)),
        (
            {"quant_method": "gptq", "bits": 4, "desc_act": True, "group_size": 128},
            ("gptq 4-bit with activation order",),
        ),
        ({"quant_method": "gptq", "bits": 4, "desc_act": True, "group_size": -1}, (GPTQ,)),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, ("bitsandbytes",)),
        ({"bits": 4}, ("an unnamed method",)),
    ],
)
def test_how_a_checkpoint_says_it(tmp_path, declared, expected):
    assert quantized_formats(write_model(tmp_path, declared)) == expected


def test_other_places_of_the_declaration(tmp_path):
    declared = {"quant_method": "awq", "bits": 4}
    assert quantized_formats(write_model(tmp_path, declared, key="compression_config")) == (AWQ,)
    assert quantized_formats(write_model(tmp_path, {"quantization_config": declared}, key="text_config")) == (AWQ,)


@pytest.mark.parametrize("name", ["quantize_config.json", "quant_config.json"])
def test_a_file_that_vllm_does_not_read_is_refused(tmp_path, name):
    (write_model(tmp_path) / name).write_text('{"bits": 4}')
    with pytest.raises(ConfigurationError, match=rf"Only {name} says.*quant_method added"):
        resolve_model(str(tmp_path))
    write_model(tmp_path, {"quant_method": "gptq", "bits": 4})
    assert quantized_formats(tmp_path) == (GPTQ,)


def test_a_format_without_a_kernel_is_refused_before_anything_is_loaded(tmp_path):
    write_model(tmp_path, {"quant_method": "bitsandbytes"})
    with pytest.raises(ConfigurationError, match=r"quantized as bitsandbytes: .*Allowed: plain weights, ") as caught:
        resolve_model(str(tmp_path))
    for name in supported_formats(read_machine().instruction_set):
        assert name in str(caught.value)


def test_one_format_without_a_kernel_among_several_is_enough():
    check_quantized_formats((W8A8_INT8, W4A16), "AVX512", "uri")
    with pytest.raises(ConfigurationError, match="as compressed-tensors w4a16: its kernel needs AVX512"):
        check_quantized_formats((W8A8_INT8, W4A16), "AVX2", "uri")


def test_the_facts_of_a_quantized_model_have_the_bytes_that_are_loaded(tmp_path):
    declared = compressed("int-quantized", {"weights": INT8, "input_activations": INT8})
    model = resolve_model(str(write_model(tmp_path, declared)))
    assert (model.facts.weight_bytes, model.facts.quantized_formats) == (300, (W8A8_INT8,))


def test_a_manifest_is_no_part_of_the_model(tmp_path):
    before = resolve_model(str(write_model(tmp_path))).digest
    (tmp_path / "manifest.json").write_text("{}")
    assert resolve_model(str(tmp_path)).digest == before

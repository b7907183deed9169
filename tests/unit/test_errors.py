import pytest

from kfp_llm_batch import errors
from kfp_llm_batch.errors import BatchError, ConfigurationError, StorageError, exit_with_message
from kfp_llm_batch.storage.protocol import ObjectNotFoundError


def all_errors() -> list[type[BatchError]]:
    return [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, BatchError)]


def test_the_tree_at_the_top_of_the_module_is_complete():
    for kind in all_errors():
        assert kind.__name__ in (errors.__doc__ or "")
        if kind is not BatchError:
            line = next(line for line in (errors.__doc__ or "").splitlines() if f"-- {kind.__name__} " in line)
            assert f"exit {kind.exit_code}" in line


def test_the_message_suggests_the_nearest_allowed_value():
    error = ConfigurationError("Unknown format", received="parket", allowed=["parquet", "jsonl"], remedy="Choose one.")
    assert str(error) == (
        "Unknown format. Received: 'parket'. Allowed: parquet, jsonl. Did you mean 'parquet'? Choose one."
    )


def test_a_step_ends_with_its_message_and_exit_code(capsys):
    with pytest.raises(SystemExit) as ended, exit_with_message():
        raise ConfigurationError("Wrong")
    assert ended.value.code == 2
    assert capsys.readouterr().err == "ConfigurationError: Wrong.\n"


def test_a_local_run_finds_the_message_in_a_file(tmp_path, monkeypatch, capsys):
    message = tmp_path / "message"
    message.touch()
    monkeypatch.setenv(errors.TERMINATION_LOG_VARIABLE, str(message))
    with pytest.raises(SystemExit), exit_with_message():
        raise ConfigurationError("Wrong")
    assert message.read_text() == "ConfigurationError: Wrong."
    assert capsys.readouterr().err == ""


def test_a_defect_keeps_its_traceback():
    with pytest.raises(KeyError), exit_with_message():
        raise KeyError("defect")


def test_a_message_is_the_error_again():
    error = ConfigurationError("Wrong", received="x")
    again = errors.parse_message(errors.as_message(error))
    assert (type(again), str(again)) == (ConfigurationError, str(error))
    gone = errors.parse_message(errors.as_message(ObjectNotFoundError("It is gone")))
    assert (type(gone), str(gone)) == (StorageError, "It is gone.")
    assert errors.parse_message("KeyError: 'x'") is None
    assert errors.parse_message("") is None

"""Where memory is short, every command ends in one sentence and exit code 1, whichever library noticed it."""

import pytest
import typer

from medsam_adapt.cli import lazy_group
from medsam_adapt.cli.main import main
from medsam_adapt.core.errors import InputError, RunError, user_error

SHORT = {
    "Python": MemoryError(),
    "NumPy": MemoryError("Unable to allocate 8.00 GiB for an array"),
    "torch": RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"),
    "GPU": RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "system": OSError(12, "Cannot allocate memory"),
}


def command_that_raises(error):
    app = typer.Typer()

    @app.command()
    def fail():
        raise error

    return typer.main.get_command(app)


@pytest.mark.parametrize("name", lazy_group.SUMMARIES)
def test_every_command_states_that_memory_is_short(name, monkeypatch, capsys):
    monkeypatch.setattr(lazy_group, "load_command", lambda _: command_that_raises(MemoryError()))
    with pytest.raises(SystemExit) as stopped:
        main([name])
    assert stopped.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: memory: there is not enough")


@pytest.mark.parametrize("source", SHORT)
def test_short_memory_is_recognised_below_other_errors(source):
    """MONAI wraps whatever is raised while it reads a config."""
    wrapped = RuntimeError("Failed to instantiate the trainer")
    wrapped.__cause__ = SHORT[source]
    for error in (SHORT[source], wrapped):
        found = user_error(error)
        assert isinstance(found, RunError)
        assert "not enough" in str(found)


def test_a_better_explanation_is_kept():
    for better in (InputError("a.png: it is too large. Crop it."), RunError("batch_size: lower it.")):
        better.__cause__ = MemoryError()
        assert user_error(better) is better


def test_other_errors_are_not_about_memory():
    assert user_error(RuntimeError("shapes do not match")) is None
    missing = FileNotFoundError(2, "No such file or directory")
    assert user_error(missing) is missing

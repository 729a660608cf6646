"""The help texts of all commands, the end of a wrong command line, and the completion in a shell."""

import sys

import pytest

from service.cli.__main__ import main
from service.contract.request.presets import PRESETS
from tests.support.command_line import commands


def is_sentence(text: str | None) -> bool:
    return text is not None and text == text.strip() and text[:1].isupper() and text.endswith(".")


def test_every_option_and_argument_has_a_sentence() -> None:
    found = [(f"{name} {param.name}", param.help) for name, command in commands() for param in command.params]
    assert len(found) > 40
    assert [name for name, text in found if not is_sentence(text)] == []


def test_every_command_has_a_sentence() -> None:
    found = list(commands())
    assert len(found) > 15
    assert [name for name, command in found if not is_sentence(command.help)] == []


def ended(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    """The exit code of `taskslim` with these arguments."""
    monkeypatch.setattr(sys, "argv", ["taskslim", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    return caught.value.code


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["list", "--limits", "3"], "(Possible options: --limit). See `taskslim list --help`."),
        (["lost"], "Did you mean 'list'? See `taskslim --help`."),
        (["show"], "Missing argument 'JOB'."),
        (["list", "--limit", "0"], "Invalid value for '--limit': 0 is not in the range 1<=x<=100."),
        (["submit", "none.json"], "Invalid value for 'REQUEST': 'none.json': No such file or directory"),
    ],
)
def test_wrong_command_line_ends_with_2_and_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    assert ended(monkeypatch, *arguments) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith(says)


def test_taskslim_alone_shows_its_help(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(monkeypatch) == 2
    shown = capsys.readouterr()
    assert "Usage: taskslim" in shown.out
    assert shown.err == ""


def test_shell_completes_presets(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    variables = {
        "_TASKSLIM_COMPLETE": "complete_bash",
        "COMP_WORDS": "taskslim slim model --task s",
        "COMP_CWORD": "4",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert ended(monkeypatch) == 0
    assert capsys.readouterr().out.split() == [name for name in PRESETS if name.startswith("s")]

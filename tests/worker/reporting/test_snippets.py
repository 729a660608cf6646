"""The Python snippet of a report gives the answers that the job measured."""

from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch

from service.contract.answers.task_file import TaskFile
from service.contract.options import TaskKind
from service.contract.request.presets import resolve
from service.contract.request.task import Task
from service.models.families.table import FAMILIES
from service.rows.row import Row
from tests.support import checkpoints
from tests.support.chat_templates import USABLE, add_chat_template
from tests.support.requests import plain_request
from worker.checkpoints.loading import LoadedModel, load_model
from worker.data import batching, prompts, wordings
from worker.data.wordings import Wording
from worker.evaluation import answer_scores, generation
from worker.evaluation.answers import Answers
from worker.reporting.snippets import answer_lines, snippet
from worker.reporting.task_file import shipped_task

SAID = [{"role": "user", "content": "..."}, {"role": "assistant", "content": "bad"}]
ROW = Row({"text": "...", "label": "0", "target": "good", "messages": SAID}, 1)
CLASSIFY: dict[str, Any] = {"template": "{text}:", "labels": {"0": "positive", "1": "bad"}, "label_prefix": " "}
SEVERAL: dict[str, Any] = CLASSIFY | {"labels": {"0": "good", "1": "bad film"}}
CLASSES: dict[str, Any] = CLASSIFY | {"labels": {"0": "LABEL_2", "1": "LABEL_0"}}
WRITE: dict[str, Any] = {"kind": "generation", "template": "{text}:"}
CHAT_WRITE: dict[str, Any] = {"kind": "generation", "messages": "messages"}
CHAT_CLASSIFY: dict[str, Any] = {"messages": "messages", "labels": {"0": "bad", "1": "positive"}}
CHAT_SEVERAL: dict[str, Any] = CHAT_CLASSIFY | {"labels": {"0": "bad", "1": "bad film"}}
CASES = [
    *((family, CLASSIFY) for family in ("llama", "t5", "bart")),
    *((family, SEVERAL) for family in ("llama", "t5")),
    ("bert", CLASSES),
    *((family, WRITE) for family in ("llama", "t5")),
]
CHATS = [
    *(("llama", task, name) for task in (CHAT_WRITE, CHAT_CLASSIFY, CHAT_SEVERAL) for name in USABLE),
    *((family, task, "thinking") for family, task in (("t5", CHAT_WRITE), ("t5", CHAT_CLASSIFY))),
    ("bert", CHAT_CLASSIFY | {"labels": {"0": "LABEL_2", "1": "LABEL_0"}}, "headed"),
]


def loaded_with_wording(
    directory: Path, family: str, task: dict[str, Any], chat_template: str | None = None
) -> tuple[LoadedModel, Wording]:
    """A tiny model in the directory `model`, as the worker loads it, and the wording of its task."""
    checkpoints.write(directory / "model", family)
    if chat_template is not None:
        add_chat_template(directory / "model", chat_template, FAMILIES[family].kind)
    loaded = load_model(directory / "model", device=torch.device("cpu"))
    resolved = resolve(Task.model_validate(task | {"calibration": {"uri": "file:///rows.jsonl"}}))
    return loaded, wordings.wording(loaded.family.kind, resolved, loaded.tokenizer, loaded.model.config)


def run(text: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(directory)
    with redirect_stdout(StringIO()) as printed:
        exec(text, {})
    return printed.getvalue()


@pytest.mark.parametrize(("family", "task"), CASES)
def test_snippet_gives_the_answer_that_the_job_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, task: dict[str, Any]
) -> None:
    check_snippet(tmp_path, monkeypatch, *loaded_with_wording(tmp_path, family, task))


@pytest.mark.parametrize(("family", "task", "name"), CHATS)
def test_snippet_asks_by_the_chat_template(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, task: dict[str, Any], name: str
) -> None:
    loaded, wording = loaded_with_wording(tmp_path, family, task, USABLE[name])
    check_snippet(tmp_path, monkeypatch, loaded, wording)


def check_snippet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loaded: LoadedModel, wording: Wording) -> None:
    """Check that the snippet prints the answer that the job measures."""
    torch.set_num_threads(1)
    padding = batching.padding(loaded.model, loaded.tokenizer, wording.kind, wording.ends)
    answer = next(iter(wording.words.values()), "bad")
    row = replace(ROW, values=ROW.values | {"messages": [SAID[0], SAID[1] | {"content": answer}]})
    examples, _ = prompts.encode([row], wording)
    auto_class = loaded.family.auto_class
    (tmp_path / "model/task.json").write_text(TaskFile(tasks=[shipped_task(wording, padding, None)]).model_dump_json())
    printed = run(snippet(plain_request(), auto_class, False, wording, padding), tmp_path, monkeypatch)
    if wording.task.kind is TaskKind.generation:
        [expected] = generation.generate(loaded.model, examples, wording, padding, 256, lambda done: None)
        assert expected
        assert printed.startswith(expected)  # the job stops at the length of the target
    else:
        scores = answer_scores.score(loaded.model, batching.batches(examples, padding, 256), lambda done: None)
        assert [printed.strip()] == Answers(scores).given(list(wording.words))


@pytest.mark.parametrize("name", ["class", "text"])
def test_snippet_compiles_for_any_column_and_template(tmp_path: Path, name: str) -> None:
    template = f'It\'s "{{{name}}}", {{{{really}}}}\n```\n:'
    loaded, wording = loaded_with_wording(tmp_path, "llama", CLASSIFY | {"template": template})
    text = answer_lines(wording, batching.padding(loaded.model, loaded.tokenizer, "causal"))
    compile(text, "snippet", "exec")
    assert "\n```" not in text  # in a model card it would end the code

"""The OpenAI-style request that asks a served model its task: the prompt rule and the label offsets of task.json."""

from dataclasses import dataclass, field
from typing import Any

from service.contract.answers.task_file import ShippedTask
from service.contract.errors import InvalidRequest
from service.contract.options import TaskKind
from service.contract.request.presets import template_fields

MAX_BIAS = 100.0  # the largest value of `logit_bias`; servers cut larger ones off


@dataclass(frozen=True)
class Question:
    """A request, and what a reader has to know about it. `body` is None where no request gives the job's answers."""

    path: str
    body: dict[str, Any] | None
    notes: list[str] = field(default_factory=list)


def question(task: ShippedTask, runtime: str, model_name: str) -> Question:
    """The request that asks the task of one row, whose columns are `...` in it.

    Raises InvalidRequest for a task whose answers no such server gives.
    """
    if task.kind not in (TaskKind.classification, TaskKind.generation):
        raise InvalidRequest(
            f"the servers of other runtimes give no answers to a {task.kind} task: the report's snippet runs it with "
            "transformers"
        )
    notes: list[str] = []
    body: dict[str, Any] = {"model": model_name, **_prompt(task, notes), "temperature": 0}
    path = "/v1/completions" if task.messages is None else "/v1/chat/completions"
    if task.messages is None and not task.special_tokens:
        _leave_out_special_tokens(body, runtime, notes)
    if task.kind is TaskKind.generation:
        return Question(path, body | {"max_tokens": task.max_new_tokens}, notes)
    bias = _label_bias(task, notes)
    return Question(path, None if bias is None else body | {"max_tokens": 1, "logit_bias": bias}, notes)


def _prompt(task: ShippedTask, notes: list[str]) -> dict[str, Any]:
    if task.messages is not None:
        return {"messages": [{"role": "user", "content": "..."}]}
    template = task.template or ""
    columns = template_fields(template)
    notes.append(f"the prompt is the template, with {', '.join(sorted(columns))} of a row in place of the dots")
    if task.max_words:
        notes.append(f"every column is cut to its first {task.max_words} words before")
    return {"prompt": template.format_map(dict.fromkeys(columns, "..."))}


def _leave_out_special_tokens(body: dict[str, Any], runtime: str, notes: list[str]) -> None:
    if runtime == "vllm":
        body["add_special_tokens"] = False
    else:
        notes.append("the template has the special tokens itself: check that the server does not add them again")


def _label_bias(task: ShippedTask, notes: list[str]) -> dict[str, float] | None:
    """Token of each label -> bias: so large that one of them is answered, and differing by the label offsets."""
    answers = task.answer_tokens
    if answers is None or any(len(tokens) != 1 for tokens in answers.values()):
        notes.append("answers of several tokens have no bias: the report's snippet compares them with transformers")
        return None
    if task.messages is not None and task.label_prefix:
        notes.append(f"the answer follows {task.label_prefix!r}, which a chat server does not add: use the snippet")
        return None
    highest = max(task.label_offsets.values(), default=0.0)
    notes.append("logit_bias lets the model answer with labels alone, and contains their offsets")
    notes.append("answers: " + ", ".join(f"{word!r} is the label {label!r}" for label, word in task.labels.items()))
    return {
        str(tokens[0]): round(MAX_BIAS - highest + task.label_offsets.get(label, 0.0), 6)
        for label, tokens in answers.items()
    }

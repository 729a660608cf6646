"""Jobs whose rows are conversations: the figures and the files are those of a stock model that is asked by its chat
template."""

import json
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from service.contract.answers.report import Decoding, Report
from service.contract.answers.result import Result
from service.contract.answers.task_file import TaskFile
from service.models.families.table import FAMILIES
from tests.support import checkpoints
from tests.support.chat_templates import USABLE, add_chat_template
from tests.support.pipeline_jobs import WORDS, Deployment, write_rows

Turns = list[dict[str, str]]
WRITE: dict[str, Any] = {"kind": "generation", "metric": "chrf"}
PLAIN = {"template": None, "labels": None, "messages": "chat"}
CLASSIFY: dict[str, Any] = {"labels": {"p": "positive", "n": "negative"}}


def conversation(number: int, *answers: str) -> Turns:
    """A conversation with these answers, each to a question of two words."""
    asked = [f"{WORDS[(number + step) % 8]} {WORDS[(3 * number + step) % 8]}" for step in range(len(answers))]
    turns = ((("user", text), ("assistant", answer)) for text, answer in zip(asked, answers, strict=True))
    return [{"role": role, "content": content} for turn in turns for role, content in turn]


def words(number: int) -> str:
    return ("positive", "negative")[number % 2]


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    torch.set_num_threads(1)
    return Deployment(tmp_path)


def run(deployment: Deployment, task: dict[str, Any], name: str, family: str = "llama") -> Result:
    """The result of a job on conversations of two answers, whose files are downloaded to `files`."""
    checkpoints.write(deployment.root / family, family)
    add_chat_template(deployment.root / family, USABLE[name], FAMILIES[family].kind)
    answer = (lambda number: f"good {WORDS[number]}") if "kind" in task else words
    uris = {}
    for part, count in (("calibration", 8), ("evaluation", 6)):
        rows = [{"chat": conversation(number, "bad film", answer(number))} for number in range(count)]
        uris[part] = {"uri": write_rows(deployment.root / f"{part}.jsonl", rows)}
    result = deployment.run(deployment.request(family, PLAIN | task | uris))
    deployment.download(deployment.root / "files")
    return result


def report_of(deployment: Deployment) -> Report:
    return Report.model_validate_json((deployment.root / "files/report.json").read_bytes())


def evaluated(deployment: Deployment) -> list[Turns]:
    return [json.loads(line)["chat"] for line in (deployment.root / "evaluation.jsonl").read_text().splitlines()]


def tokens_of(tokenizer: PreTrainedTokenizerBase, turns: Turns, *, asks: bool) -> list[int]:
    return list(tokenizer.apply_chat_template(turns, add_generation_prompt=asks, return_dict=False))


def greedy(model: Any, read: list[int], how: Decoding) -> list[int]:
    """The most likely tokens, one after the other."""
    written: list[int] = []
    while len(written) < how.max_new_tokens and not set(written) & set(how.end_tokens):
        with torch.inference_mode():
            written.append(int(model(input_ids=torch.tensor([read + written])).logits[0, -1].argmax()))
    return written


@pytest.mark.parametrize("name", ["headed", "bracketed"])
def test_generated_answers_are_judged_as_a_stock_model_gives_them(deployment: Deployment, name: str) -> None:
    result = run(deployment, WRITE, name)
    metrics, report = result.metrics.slim, report_of(deployment)
    assert (metrics.examples, report.calibration_examples) == (
        6,
        16,
    )  # the last answer is judged, each is calibrated on
    tokenizer = AutoTokenizer.from_pretrained(deployment.root / "files/model")
    model = AutoModelForCausalLM.from_pretrained(deployment.root / "files/model", dtype=torch.float32)
    end = tokenizer.convert_tokens_to_ids({"headed": "<|end|>", "bracketed": "</s>"}[name])
    assert report.decoding is not None
    assert end in report.decoding.end_tokens
    likelihood, count = 0.0, 0
    for turns in evaluated(deployment):
        before, whole = (tokens_of(tokenizer, part, asks=asks) for part, asks in ((turns[:-1], True), (turns, False)))
        whole = whole[: len(whole) - whole[::-1].index(end)]
        with torch.inference_mode():
            scores = model(input_ids=torch.tensor([whole])).logits[0].log_softmax(dim=-1)
        target = whole[len(before) :]
        likelihood += scores[len(before) - 1 : -1].gather(1, torch.tensor(target).unsqueeze(1)).sum().item()
        count += len(target)
    assert metrics.token_log_likelihood == pytest.approx(likelihood / count, abs=1e-4)
    changed = {each.line: each for each in report.changed}
    assert changed
    for line, turns in enumerate(evaluated(deployment), start=1):
        if line in changed:
            written = greedy(model, tokens_of(tokenizer, turns[:-1], asks=True), report.decoding)
            assert changed[line].slim == tokenizer.decode(written, skip_special_tokens=True)
            assert changed[line].right.strip() == turns[-1]["content"]
            assert changed[line].fields == {"user": turns[-2]["content"]}


@pytest.mark.parametrize(
    ("family", "task", "name"),
    [
        ("llama", CLASSIFY, "headed"),
        ("llama", CLASSIFY, "bracketed"),
        ("llama", CLASSIFY, "thinking"),
        ("t5", CLASSIFY, "headed"),
    ],
)
def test_snippet_gives_the_answers_of_the_report(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, family: str, task: dict[str, Any], name: str
) -> None:
    result = run(deployment, task, name, family)
    report = report_of(deployment)
    [shipped] = TaskFile.model_validate_json((deployment.root / "files/model/task.json").read_bytes()).tasks
    assert (shipped.template, shipped.messages, shipped.special_tokens) == (None, "chat", False)
    assert any(shipped.label_offsets.values())
    card = (deployment.root / "files/model/README.md").read_text()
    assert "apply_chat_template(messages, add_generation_prompt=True)" in card
    assert report.snippet.strip() in card
    assert "template" not in report.digests
    monkeypatch.chdir(deployment.root / "files")
    right = 0
    for turns in evaluated(deployment):
        sample = '[{"role": "user", "content": "..."}]'
        assert sample in report.snippet
        with redirect_stdout(StringIO()) as printed:
            exec(report.snippet.replace(sample, repr(turns[:-1])), {})
        right += shipped.labels[printed.getvalue().strip()] == turns[-1]["content"]
    assert right / 6 == result.metrics.slim.value.value
    assert result.verified.max_abs_logit_difference <= result.verified.tolerance


def test_classifier_reads_conversations(deployment: Deployment) -> None:
    rows = [{"chat": conversation(number, f"LABEL_{number % 2}")} for number in range(8)]
    uri = write_rows(deployment.root / "classes.jsonl", rows)
    source = {"calibration": {"uri": uri, "draw": "balanced"}, "evaluation": {"uri": uri}}
    checkpoints.write(deployment.root / "bert", "bert")
    add_chat_template(deployment.root / "bert", USABLE["headed"], "classifier")
    labels = {"labels": {"p": "LABEL_0", "n": "LABEL_1"}}
    result = deployment.run(deployment.request("bert", PLAIN | labels | source))
    assert result.verified.loader == "BertForSequenceClassification"
    assert result.metrics.slim.majority == 0.5


def test_conversations_without_answers_are_answered_by_the_dense_model(deployment: Deployment) -> None:
    rows = [{"chat": conversation(number, words(number))[:-1]} for number in range(10)]
    uri = write_rows(deployment.root / "open.jsonl", rows)
    task = {"kind": "generation", "messages": "chat", "supervision": "none", "calibration": {"uri": uri}}
    checkpoints.write(deployment.root / "llama", "llama")
    add_chat_template(deployment.root / "llama", USABLE["headed"])
    metrics = deployment.run(deployment.request("llama", PLAIN | task)).metrics
    assert (metrics.dense.examples, metrics.dense.judged_by) == (2, "none")
    assert metrics.dense.value.value == 1


def test_observed_tasks_may_have_conversations(deployment: Deployment) -> None:
    evaluation = {"uri": write_rows(deployment.root / "chats.jsonl", [{"chat": conversation(0, "good")}] * 3)}
    asked = {"kind": "generation", "name": "chats", "messages": "chat", "evaluation": evaluation}
    checkpoints.write(deployment.root / "llama", "llama")
    add_chat_template(deployment.root / "llama", USABLE["headed"])
    metrics = deployment.run(deployment.request(observe=[asked])).metrics
    assert metrics.observed["chats"].slim.examples == 3

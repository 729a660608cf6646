"""A trained model, slimmed with widths of each layer's own and written as GGUF: it answers in llama.cpp."""

from pathlib import Path

import pytest

from service.cli.demo.request import LABELS, TEMPLATE, find_model, read_rows
from service.contract.request.job_request import JobRequest
from service.contract.request.output import Output
from service.jobs.record import new_record
from service.settings import Settings
from service.storage.inline_rows import take_rows
from service.storage.keys import dataset_key
from service.storage.object_store import Storage
from tests.support.exports import CYLLAMA, with_packages
from tests.support.progress import IgnoredProgress
from worker import pipeline
from worker.exports.checkpoint_logits import checkpoint_logits
from worker.exports.gguf import llama_cpp
from worker.exports.questions import Questions
from worker.exports.source import ExportSource
from worker.sources.gguf import convert_gguf

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
ROWS = {"calibration": 24, "evaluation": 12}


@pytest.fixture(autouse=True)
def with_llama_cpp(monkeypatch: pytest.MonkeyPatch) -> None:
    with_packages(monkeypatch, CYLLAMA)


def test_a_slim_smollm2_answers_in_llama_cpp(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    assert request.config.cache is not None
    [gguf] = find_model().glob("*.gguf")
    checkpoint = convert_gguf(gguf, request.config.cache.mkdir("real-model") / "cache" / "gguf")
    parts = {name: {"rows": read_rows("sentiment", name)[:count]} for name, count in ROWS.items()}
    body = {
        "model": {"uri": checkpoint.as_uri()},
        "task": {"kind": "classification", "template": TEMPLATE, "labels": LABELS} | parts,
        "target": {"ratio": 0.3},
        "method": {"units": ["ffn", "heads"], "scope": "global"},
        "output": {"layout": "per_layer", "formats": ["safetensors", "gguf"], "gguf_types": ["q8_0", "q4_k_m"]},
    }
    settings, storage = Settings(state=tmp_path / "state", device="cpu"), Storage((tmp_path / "artifacts").as_uri())
    asked, files = take_rows(JobRequest.model_validate(body), "job")
    for dataset, lines in files.items():
        storage.put_bytes(lines, dataset_key("default", dataset))
    job = new_record(asked).model_copy(update={"attempt": 1})
    result = pipeline.run(job, settings=settings, storage=storage, progress=IgnoredProgress(), scratch=tmp_path)
    [export] = result.exports
    assert (export.architecture, export.checked_by) == ("deci", llama_cpp.described())
    assert export.max_abs_logit_difference <= export.tolerance
    eight, four = export.files
    assert eight.bytes < 0.6 * result.bytes.slim
    assert four.bytes < eight.bytes
    assert eight.max_abs_logit_difference is not None
    source = ExportSource(tmp_path / "output/model", tmp_path, Output(), tmp_path, lambda: None)
    for row in read_rows("sentiment", "evaluation")[:4]:
        prompt = source.tokenizer(TEMPLATE.format_map(row), return_tensors="pt").input_ids[0][-200:]
        answers = [source.tokenizer(f" {word}", add_special_tokens=False).input_ids[0] for word in LABELS.values()]
        question = Questions([prompt], [], [], [], [])
        [logits] = llama_cpp.ask(source, tmp_path / "output" / eight.name, question).logits
        [stock] = checkpoint_logits(source.checkpoint, [prompt], tmp_path, lambda: None)
        assert logits[-1, answers].argmax() == stock[-1, answers].argmax()
        assert (logits[-1].softmax(0) - stock[-1].softmax(0)).abs().max() < 0.1

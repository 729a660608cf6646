"""The Python snippet of the report and the model card: loads the slim model and runs the task on one row."""

from service.contract.options import Format, TaskKind
from service.contract.presets import template_fields
from service.contract.request import JobRequest
from service.families.table import Kind
from service.sources.job_checkpoints import JOB
from service.sources.readers import scheme_of
from service.storage.artifact_names import MODEL, kept_name
from worker.data.batching import Padding
from worker.data.prompts import TOKENISE, Wording, render

MAX_NEW_TOKENS = 256  # in the snippet of a generation task

APPLY = f"taskslim apply {kept_name(MODEL)} {MODEL}"
FROM_A_JOB = " --model DIRECTORY  # the downloaded checkpoint of the other job"
LOAD = """\
from transformers import {auto_class}, AutoTokenizer

model = {auto_class}.from_pretrained("{model}"{remote_code})
tokenizer = AutoTokenizer.from_pretrained("{model}")
"""
PROMPT = """
prompt = tokenizer({template!r}.format_map({fields}), return_tensors="pt"{special})
"""
CHOOSE = """\
answers = {answers!r}  # each label's {unit}
scores = model(**prompt{decoder}).logits[{place}]
print(max(answers, key=lambda label: scores[answers[label]]))
"""
WRITE = """\
text = model.generate(**prompt, do_sample=False, max_new_tokens={tokens})[0{start}]
print(tokenizer.decode(text, skip_special_tokens=True))
"""
PLACES: dict[Kind, str] = {"causal": "0, -1", "encoder_decoder": "0, -1", "classifier": "0"}


def snippet(request: JobRequest, auto_class: str, own_widths: bool, wording: Wording, padding: Padding) -> str:
    """The snippet, to run in the directory of the artifacts. The columns of the row are `...` in it."""
    # The class is in the checkpoint, and the job wrote it: its code is trusted.
    remote_code = ", trust_remote_code=True" if own_widths else ""
    load = LOAD.format(auto_class=auto_class, model=MODEL, remote_code=remote_code)
    load += answer_lines(wording, padding)
    if Format.safetensors in request.output.formats:
        return load
    apply = APPLY + (FROM_A_JOB if scheme_of(request.model.uri) == JOB else "")
    return f"# First, in a shell: {apply}\n{load}"


def answer_lines(wording: Wording, padding: Padding) -> str:
    """The lines that print the model's answer to one row; empty where a few lines cannot give the answer of the job.

    That is so for labels of several tokens, and for prompts whose tokens differ when an answer follows.
    """
    template, labels = wording.task.template or "", list(wording.words)
    blank = dict.fromkeys(sorted(template_fields(template)), "...")
    prompt = render(template, blank)
    tokens, candidates = TOKENISE[wording.kind](prompt, list(wording.words.values()), wording)
    plain = wording.tokenizer(prompt, add_special_tokens=wording.special_tokens)["input_ids"]
    if list(tokens) != list(plain) or any(len(candidate) > 1 for candidate in candidates):
        return ""
    special = "" if wording.special_tokens else ", add_special_tokens=False"
    lines = PROMPT.format(template=template, fields=blank, special=special)
    if wording.task.kind is TaskKind.generation:
        start = ', prompt["input_ids"].shape[1] :' if wording.kind == "causal" else ""
        return lines + WRITE.format(tokens=min(MAX_NEW_TOKENS, wording.max_tokens or MAX_NEW_TOKENS), start=start)
    opening = list(padding.decoder_opening)
    unit = "class" if wording.kind == "classifier" else "token"
    decoder = f', decoder_input_ids=prompt["input_ids"].new_tensor([{opening}])' if opening else ""
    answers = {label: token for label, (token,) in zip(labels, candidates, strict=True)}
    return lines + CHOOSE.format(answers=answers, unit=unit, decoder=decoder, place=PLACES[wording.kind])

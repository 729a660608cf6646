"""The Python snippet of the report and the model card: loads the slim model and runs the task on one row."""

from collections.abc import Sequence

from service.contract.answers.result import Export
from service.contract.options import Format, TaskKind
from service.contract.request.job_request import JobRequest
from service.contract.request.presets import template_fields
from service.models.families.family import Kind
from service.sources.job_checkpoints import JOB
from service.sources.readers import scheme_of
from service.storage.artifact_names import MODEL, TASK_FILE, kept_name
from worker.data.batching import Padding
from worker.data.wordings import Wording
from worker.reporting.embedding_snippets import LOAD_SENTENCE_TRANSFORMER, embedding_lines
from worker.reporting.task_file import answer_tokens

APPLY = f"taskslim apply {kept_name(MODEL)} {MODEL}"
FROM_A_JOB = " --model DIRECTORY  # the downloaded checkpoint of the other job"
LOAD = """\
{imports}
from transformers import {auto_class}, AutoTokenizer{more}

model = {auto_class}.from_pretrained("{model}"{remote_code})
tokenizer = AutoTokenizer.from_pretrained("{model}")
with open("{model}/{task_file}", encoding="utf-8") as file:
    task = json.load(file)["tasks"][0]
"""
LOAD_TASK = """
with open("{directory}/{task_file}", encoding="utf-8") as file:
    task = json.load(file)["tasks"][0]
"""
PROMPT = """
row = {fields}
"""
CUT = """\
for column, text in row.items():
    words = re.findall(r"\\s*\\S+", text)
    row[column] = "".join(words[: task["max_words"]]) if len(words) >= task["max_words"] else text
"""
FILL = """\
text = task["template"].format_map(row)
"""
PRINT = """\
print(text)  # the prompt
"""
CHAT = """
messages = [{"role": "user", "content": "..."}]
text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
"""
LEAD = """\
text += task["label_prefix"]
"""
TOKENS = """\
prompt = tokenizer(text, return_tensors="pt", add_special_tokens=task["special_tokens"])
"""
OPENING = """\
opening = prompt["input_ids"].new_tensor([task["decoder_tokens"]])
"""
CHOOSE = """\
scores = model(**prompt{decoder}).logits[{place}].float()
answers = task["answer_tokens"]
print(max(answers, key=lambda label: scores[answers[label][0]] + task["label_offsets"][label]))
"""
CHOOSE_SEVERAL = """\
outputs = model(**prompt).logits[0].float()
answers = task["answer_tokens"]
print([label for label in answers if outputs[answers[label][0]] + task["label_offsets"][label] > 0])
"""
TAG = """\
text = "A text."
prompt = tokenizer(text, return_tensors="pt", return_offsets_mapping=True, add_special_tokens=task["special_tokens"])
spans = prompt.pop("offset_mapping")[0].tolist()
outputs = model(**prompt).logits[0].float()
answers, start = task["answer_tokens"], 0
for word in text.split(" "):
    places = [place for place, (begin, end) in enumerate(spans) if start - 1 <= begin < min(end, start + len(word))]
    start += len(word) + 1
    if places:
        scores = {tag: outputs[places[0]][answers[tag][0]] + task["label_offsets"][tag] for tag in answers}
        print(word, max(scores, key=scores.get))
"""
OUTPUT = """\
print(model(**prompt).logits[0, 0].item())
"""
PERPLEXITY = """\
print(model(**prompt, labels=prompt["input_ids"]).loss.exp().item())  # the perplexity of the text
"""
# of answers with several tokens
CHOOSE_TEXT = """\
def score(label):
    answer = prompt["input_ids"].new_tensor([task["answer_tokens"][label]])
    {logits}
    chosen = logits.float().log_softmax(-1).gather(2, answer.unsqueeze(2))
    return chosen.sum().item() + task["label_offsets"][label]


print(max(task["answer_tokens"], key=score))
"""
LOGITS: dict[Kind, str] = {
    "causal": 'logits = model(torch.cat([prompt["input_ids"], answer], 1)).logits[:, -1 - answer.shape[1] : -1]',
    "encoder_decoder": "logits = model(**prompt, decoder_input_ids=torch.cat([opening, answer[:, :-1]], 1)).logits"
    "[:, -answer.shape[1] :]",
}
WRITE = """\
model.generation_config = GenerationConfig({start_token})  # greedy, whatever generation_config.json says
ends = {{"eos_token_id": {ends}, "pad_token_id": {pad}{unwritten}}}
text = model.generate(**prompt{decoder}, max_new_tokens=task["max_new_tokens"], **ends)[0, {start} :]
print(tokenizer.decode(text, skip_special_tokens=True))
"""
IMPORTS = ("json", "re", "torch")  # those that the lines use
PLACES: dict[Kind, str] = {
    "causal": "0, -1",
    "encoder_decoder": "0, -1",
    "classifier": "0",
    "decoder_classifier": "0",
}


def snippet(request: JobRequest, auto_class: str, own_widths: bool, wording: Wording, padding: Padding) -> str:
    """The snippet, to run in the directory of the artifacts. The columns of the row are `...` in it."""
    code = usage(MODEL, auto_class, wording, padding, own_widths=own_widths)
    if Format.safetensors in request.output.formats:
        return code
    apply = APPLY + (FROM_A_JOB if scheme_of(request.model.uri) == JOB else "")
    return f"# First, in a shell: {apply}\n{code}"


def usage(directory: str, auto_class: str, wording: Wording, padding: Padding, *, own_widths: bool) -> str:
    """The lines that load the checkpoint in a directory and answer one row of its task."""
    # The class is in the checkpoint, and the job wrote it: its code is trusted.
    remote_code = ", trust_remote_code=True" if own_widths else ""
    answer, encoder = answer_lines(wording, padding), wording.sentence_encoder
    template = LOAD_SENTENCE_TRANSFORMER if encoder is not None and encoder.has_files else LOAD
    used = [f"import {name}" for name in IMPORTS if f"{name}." in template + answer]
    names = {"auto_class": auto_class, "model": directory, "task_file": TASK_FILE, "remote_code": remote_code}
    more = ", GenerationConfig" if "GenerationConfig" in answer else ""
    return template.format(imports="\n".join(used), more=more, **names) + answer


def prompt_snippet(wording: Wording, exports: Sequence[Export]) -> str:
    """The snippet of a job that stores the model for other runtimes alone: it prints the prompt of one row."""
    directory = exports[0].directory
    ask = LOAD_TASK.format(directory=directory, task_file=TASK_FILE) + _asking_lines(wording) + PRINT
    ask = "" if wording.chat is not None else ask
    imports = "".join(f"import {name}\n" for name in IMPORTS if f"{name}." in ask)
    return "".join(f"# In a shell: {each.command}\n" for each in exports) + imports + ask


def answer_lines(wording: Wording, padding: Padding) -> str:
    """The lines that print the model's answer to one row; empty where a few lines cannot give the answer of the job.

    That is so for prompts whose tokens differ when an answer follows.
    """
    answers = answer_tokens(wording)
    if answers is None:
        return ""
    if wording.sentence_encoder is not None:
        return _asking_lines(wording) + embedding_lines(wording.sentence_encoder)
    if wording.task.kind is TaskKind.token_classification:
        return TAG
    lines = _asking_lines(wording) + TOKENS
    lines += OPENING if padding.decoder_opening else ""
    if wording.task.kind is TaskKind.generation:
        return lines + _writing_lines(padding)
    if wording.task.kind is TaskKind.language_modelling:
        return lines + PERPLEXITY
    if wording.task.kind is TaskKind.regression:
        return lines + OUTPUT
    if wording.task.kind is TaskKind.multi_label:
        return lines + CHOOSE_SEVERAL
    if any(len(tokens) > 1 for tokens in answers.values()):
        return lines + "\n\n" + CHOOSE_TEXT.format(logits=LOGITS[wording.kind])
    decoder = ", decoder_input_ids=opening" if padding.decoder_opening else ""
    return lines + CHOOSE.format(decoder=decoder, place=PLACES[wording.kind])


def _asking_lines(wording: Wording) -> str:
    """The lines that make the text of the prompt."""
    if wording.chat is not None:
        return CHAT + (LEAD if wording.prompt_suffix else "")
    blank = dict.fromkeys(sorted(template_fields(wording.task.template or "")), "...")
    return PROMPT.format(fields=blank) + (CUT if wording.task.max_words else "") + FILL


def _writing_lines(padding: Padding) -> str:
    """The lines that generate a text as the job does."""
    opening = padding.decoder_opening
    return WRITE.format(
        start_token=f"decoder_start_token_id={opening[0]}" if opening else "",
        ends=list(padding.ends) or None,
        pad=padding.pad,
        unwritten=f', "suppress_tokens": {list(padding.unwritten)}' if padding.unwritten else "",
        decoder=", decoder_input_ids=opening" if opening else "",
        start=len(opening) if opening else 'prompt["input_ids"].shape[1]',
    )

"""Chat templates in the manners of real ones, for the tokenizer of tests.support.checkpoints."""

from pathlib import Path

from transformers import PreTrainedTokenizerFast

from tests.support import checkpoints

TURN, END = "<|turn|>", "<|end|>"  # special tokens; END is no end token of the tokenizer or of a generation config
_HEADED = "{{ '<|turn|>' + message['role'] + '\n' + message['content'] + '<|end|>\n' }}"
_ASKS = "{% if add_generation_prompt %}{{ '<|turn|>assistant\n' }}{% endif %}"


def _each(body: str) -> str:
    return "{% for message in messages %}" + body + "{% endfor %}"


# Templates that can be used.
USABLE = {
    # ChatML: Qwen 2, SmolLM2
    "headed": _each(_HEADED) + _ASKS,
    # Llama 2, Mistral: a beginning-of-sequence token, white space around the answer, no generation prompt
    "bracketed": "{{ bos_token }}"
    + _each(
        "{% if message['role'] == 'assistant' %}{{ ' ' + message['content'] + ' ' + eos_token }}"
        "{% else %}{{ '[' + message['content'] + ']' }}{% endif %}"
    ),
    # Llama 3: contents are trimmed
    "trimmed": "{{ bos_token }}" + _each(_HEADED.replace("['content']", "['content'] | trim")) + _ASKS,
    # the header of an answer comes with it
    "no generation prompt": _each(_HEADED),
    # Qwen 3: the last answer has an empty thought, earlier ones have none
    "thinking": _each(
        "{% if message['role'] == 'assistant' and loop.last %}"
        "{{ '<|turn|>assistant\n[ ]\n' + message['content'] + '<|end|>\n' }}{% else %}" + _HEADED + "{% endif %}"
    )
    + _ASKS,
    # Gemma: no system message
    "strict": _each(
        "{% if message['role'] == 'system' %}{{ raise_exception('no system message') }}{% endif %}" + _HEADED
    )
    + _ASKS,
}
# Templates that cannot be used, with a part of the reason.
UNUSABLE = {
    # DeepSeek R1: the generation prompt opens a thought that no answer has
    "open thought": (
        _each(_HEADED) + _ASKS.replace("assistant\n", "assistant\n["),
        "otherwise than the prompt that asks",
    ),
    "broken": ("{% for", "cannot be run"),
    "failing": (_each("{{ message['content'] + 1 }}"), "cannot be run"),
    "without an answer": (
        _each("{% if message['role'] != 'assistant' %}" + _HEADED + "{% endif %}"),
        "every answer once",
    ),
    "twice": (_each(_HEADED + _HEADED), "every answer once"),
    "system needed": (
        "{% if messages[0]['role'] != 'system' %}{{ raise_exception('a system message, please') }}{% endif %}",
        "a system message, please",
    ),
}
# A template whose answers have no end token: it serves for labels alone.
ENDLESS = _each("{{ message['role'] + ': ' + message['content'] + '\n' }}") + _ASKS.replace(
    "<|turn|>assistant\n", "assistant: "
)


def tokenizer(template: str | None, kind: str = "causal") -> PreTrainedTokenizerFast:
    """The tokenizer of tiny models with a chat template and the special tokens TURN and END."""
    made = checkpoints.tokenizer(kind)
    made.add_special_tokens({"additional_special_tokens": [TURN, END]})
    made.chat_template = template
    return made


def add_chat_template(directory: Path, template: str, kind: str = "causal") -> None:
    """Give a tiny model in a directory the tokenizer with a chat template."""
    tokenizer(template, kind).save_pretrained(directory)

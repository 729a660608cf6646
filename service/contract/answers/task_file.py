"""The file `task.json` of a checkpoint: how to ask the slim model its tasks, so that it answers as it was judged."""

from typing import Literal

from pydantic import Field

from service.contract.fields import Schema
from service.contract.options import TaskKind, TaskMetric


class ShippedEmbedding(Schema):
    """How the embedding of a text is made. White space around the text is left out before it is tokenised."""

    pooling: Literal["mean", "cls", "last"] = Field(
        description="what the hidden states of the tokens become: their mean, special tokens included, that of the "
        "first token, or that of the last one"
    )
    normalised: bool = Field(description="whether the embedding is divided by its length")
    lower_case: bool = Field(description="whether the text is put in lower case, whatever the tokenizer does")
    has_files: bool = Field(
        description="whether the checkpoint has the files by which sentence-transformers does all this; without them "
        "the pooling is the mean"
    )


class ShippedTask(Schema):
    """A task as the slim model was evaluated on it.

    The prompt is the template, filled with the columns of a row, or the conversation as the tokenizer's chat template
    writes it, with the generation prompt. A label is answered by the highest sum of the log-probability of its answer
    tokens after the prompt and its offset. Where several labels are right, those are answered for which the output of
    their class and their offset add up to more than 0. The words of a tagged text are joined by spaces; each has the
    tag with the highest sum of the output of its class at the first token of the word and its offset. The answer of a
    regression is the one output of the head. A text is generated greedily. Of a plain
    text the model gives the log-probability of every token after the first.
    """

    name: str = Field(description="title of the task")
    kind: TaskKind
    template: str | None = Field(
        description="the prompt, with columns of the row as {column}; {{ and }} are braces; null for conversations "
        "and for tagged texts"
    )
    messages: str | None = Field(
        default=None,
        description="column with a conversation, which the chat template of the tokenizer makes the prompt of",
    )
    max_words: int | None = Field(description="every column is cut to its first words, with the white space between")
    max_tokens: int | None = Field(description="tokens of prompt and answer that the model takes; null: any number")
    special_tokens: bool = Field(
        description="whether the tokenizer adds its special tokens, such as BOS, to the prompt"
    )
    decoder_tokens: list[int] = Field(description="tokens that the decoder of an encoder-decoder reads first")
    label_prefix: str = Field(
        description="text between prompt and answer; after a conversation it may belong to the prompt"
    )
    labels: dict[str, str] = Field(description="label -> answer word, or class of the head; empty without labels")
    answer_tokens: dict[str, list[int]] | None = Field(
        description="label -> tokens of its answer, or the index of its class; null where they depend on the prompt, "
        "and for tasks without labels"
    )
    label_offsets: dict[str, float] = Field(
        description="label -> number that is added to the log-probability of its answer, or to the output of its class "
        "where several labels may be right; zeros where the bias of the classification head contains them; empty "
        "without labels"
    )
    embedding: ShippedEmbedding | None = Field(default=None, description="null for tasks with other answers")
    decoding: Literal[
        "most_likely_label", "likely_labels", "most_likely_tags", "output", "greedy", "embedding", "likelihood"
    ]
    max_new_tokens: int | None = Field(description="most tokens of a generated text; null for other answers")
    metric: TaskMetric = Field(description="the metric that the model was judged by")


class TaskFile(Schema):
    """The tasks of a slim model, in the file `task.json` of its checkpoint."""

    format: Literal["taskslim-task-1"] = "taskslim-task-1"
    tasks: list[ShippedTask] = Field(description="the task that the model was slimmed for, or those of a union")

"""A decoder that writes texts: by its chat template where it has one, or as the continuation of a plain text."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from service.contract.messages import Message
from service.contract.options import TaskKind
from service.contract.request.task import TaskWording
from worker.checkpoints.loading import LoadedModel
from worker.data import batching, chat_templates, wordings
from worker.data.batching import Padding
from worker.data.examples import Example
from worker.data.tokenising import token_ids
from worker.data.wordings import Tokens, Wording
from worker.evaluation import generation
from worker.evaluation.generation import Sampling

ASKED = "question"  # the column of rows that the writer itself answers
CONVERSATION = "messages"  # the same, with a chat template


@dataclass(frozen=True)
class Writer:
    """A loaded decoder, and how it is asked."""

    loaded: LoadedModel
    wording: Wording
    padding: Padding
    tokens_per_batch: int

    @classmethod
    def of(cls, loaded: LoadedModel, tokens_per_batch: int) -> "Writer":
        """The writer of a loaded decoder. Raises InvalidModel for a chat template that cannot be used."""
        return cls(loaded, *asking(loaded, TaskWording(kind=TaskKind.generation), tokens_per_batch), tokens_per_batch)

    @property
    def chats(self) -> bool:
        """Whether it is asked by a chat template."""
        return self.wording.chat is not None

    def prompt(self, question: str, opening: str) -> Tokens:
        """The tokens that ask for a text; `opening` is how the text begins."""
        if self.wording.chat is None:
            return self.wording.opening + token_ids(f"{question}\n\n{opening}".rstrip(), self.wording)
        asked = chat_templates.prompt(self.wording.tokenizer, [Message("user", question)])
        return token_ids(asked + self.wording.chat.lead + opening, self.wording)

    def most_prompt_tokens(self, tokens: int) -> int | None:
        """The tokens that a prompt may have before a text of this many tokens; None: any number."""
        return None if self.wording.max_tokens is None else self.wording.max_tokens - tokens

    def write(
        self, prompts: Sequence[Tokens], tokens: int, on_texts: Callable[[int], None], sampling: Sampling | None = None
    ) -> list[str]:
        """The text after each prompt, of at most this many tokens; the most probable one without `sampling`."""
        if not prompts:
            return []
        examples = [Example(prompt, ((0,) * tokens,), 0, "") for prompt in prompts]
        asked = (self.loaded.model, examples, self.wording, self.padding, self.tokens_per_batch, on_texts)
        return generation.texts(generation.generate_tokens(*asked, sampling), self.wording, self.padding)


def asking(loaded: LoadedModel, task: TaskWording, tokens_per_batch: int) -> tuple[Wording, Padding]:
    """How questions of a kind are put to a model: as conversations where it has a chat template."""
    has_template = chat_templates.has_template(loaded.tokenizer)
    asked = {"messages": CONVERSATION} if has_template else {"template": f"{{{ASKED}}}"}
    kind = loaded.family.kind
    wording = wordings.wording(
        kind, task.model_copy(update=asked), loaded.tokenizer, loaded.model.config, tokens_per_batch
    )
    return wording, batching.padding(loaded.model, loaded.tokenizer, kind, wording.ends)

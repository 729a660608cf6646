"""The vocabulary of a job: which tokens its texts need, and its rows as the tokens of a model that has fewer.

Shape suffixes: V rows of the embedding.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from torch import Tensor

from service.contract.options import TaskKind
from service.models.families.family import CLASSIFIERS
from worker.checkpoints.loading import LoadedModel
from worker.checkpoints.vocabularies import ids_in_configs, tokenizer_file
from worker.data import encoding
from worker.data.examples import Example
from worker.data.slim_vocabulary import SlimVocabulary
from worker.data.token_use import use_scores
from worker.data.wordings import Tokens
from worker.slimming.scoring.iterative import ScorePath
from worker.slimming.surgery.vocabulary import num_rows
from worker.slimming.units.groups import VOCABULARY
from worker.stages.context import JobContext
from worker.stages.evaluation.evaluation_sets import EvaluationSet, own
from worker.stages.task_model import Examples, TaskModel, with_examples, worded

# The scores of a job that removes nothing but tokens.
UNSCORED = ScorePath((0.0,), ({},))


def with_use(path: ScorePath, use_V: Tensor) -> ScorePath:
    """The scores of the other units, with those of the vocabulary."""
    return replace(path, scores=tuple({**scores, VOCABULARY: use_V} for scores in path.scores))


def token_use(context: JobContext, sets: Sequence[EvaluationSet], texts: Sequence[str]) -> Tensor:
    """How often each token is used in the calibration rows of all sets and in further texts, as scores (V).

    Tokens that the configs of the model name stay, and those that the request names.
    Raises UnsupportedUnit where the pieces of the tokenizer cannot be removed.
    """
    loaded = own(sets).task_model.loaded
    kept = context.job.request.method.keep_vocabulary
    file, vocabulary = tokenizer_file(loaded), loaded.tokenizer.get_vocab()
    named = {vocabulary[text] for text in kept if text in vocabulary} | ids_in_configs(loaded)
    written = [*texts, *kept, *(f" {text}" for text in kept)]
    tokens = (token for text in written for token in loaded.tokenizer(text, add_special_tokens=False)["input_ids"])
    used = [*tokens, *(token for each in sets for token in _tokens_of(each.task_model))]
    first = 1 + (loaded.model.config.pad_token_id or 0) if loaded.family.names.numbers_after_padding else 0
    return use_scores(file, num_rows(loaded.model), used, named, first=first)


def _tokens_of(task_model: TaskModel) -> Iterator[int]:
    """The tokens of the calibration rows: as the tokenizer has read their texts, and with the model's own answers."""
    for read in task_model.calibration.texts.values():
        yield from read
    for tokens in (task_model.wording.opening, task_model.wording.closing, task_model.wording.ends):
        yield from tokens
    for example in task_model.calibration.examples:
        yield from example.prompt
        if _answers_with_tokens(task_model):
            for candidate in example.candidates:
                yield from candidate


def _answers_with_tokens(task_model: TaskModel) -> bool:
    """Whether the candidates of an example are tokens, and not the outputs of a head."""
    return task_model.wording.kind not in (*CLASSIFIERS, "encoder")


# --- the rows in other tokens --------------------------------------------------------------------------------------


def with_loaded(context: JobContext, task_model: TaskModel, loaded: LoadedModel) -> TaskModel:
    """The task with another model. Where this has fewer tokens, the rows are read anew.

    The calibration rows keep their tokens, all of which have stayed. The texts of evaluation rows are read by the
    tokenizer of the model, as those of its users will be.
    """
    vocabulary = loaded.vocabulary
    if vocabulary is None or task_model.loaded.vocabulary is vocabulary:
        return replace(task_model, loaded=loaded)
    wording, padding = worded(loaded, task_model.wording.task, context.settings.tokens_per_batch)
    # Batches may have become smaller since the rows were read, which cuts no text.
    wording = replace(wording, max_tokens=task_model.wording.max_tokens)
    found = replace(task_model, loaded=loaded, wording=wording, padding=padding)

    def renumbered(rows: Examples) -> Examples:
        return with_examples(context, found, rows, [_renumbered(found, each, vocabulary) for each in rows.examples])

    return replace(
        found,
        calibration=renumbered(task_model.calibration),
        offset_rows=renumbered(task_model.offset_rows) if task_model.offset_rows else None,
        evaluation=with_examples(context, found, task_model.evaluation, _read_again(found, vocabulary)),
    )


def _renumbered(task_model: TaskModel, example: Example, vocabulary: SlimVocabulary) -> Example:
    """The example with the new ids of its tokens, all of which have stayed."""

    def new(tokens: Tokens) -> Tokens:
        return tuple(vocabulary.ids[token] for token in tokens)

    candidates = example.candidates
    if _answers_with_tokens(task_model):
        candidates = tuple(map(new, candidates))
    return replace(example, prompt=new(example.prompt), candidates=candidates, second=new(example.second))


def _read_again(task_model: TaskModel, vocabulary: SlimVocabulary) -> list[Example]:
    """The evaluation rows as the tokenizer of the model reads them, with the right answers that they have."""
    before = task_model.evaluation
    rows = [example.row for example in before.examples if example.row is not None]
    read, _ = encoding.encode(rows, task_model.wording, answered=before.answered)
    pairs = list(zip(read, before.examples, strict=True))
    if before.answered:
        return [replace(found, row=each.row, dense_tokens=len(each.prompt)) for found, each in pairs]
    return [_with_own_answer(task_model, found, example, vocabulary) for found, example in pairs]


def _with_own_answer(task_model: TaskModel, found: Example, example: Example, vocabulary: SlimVocabulary) -> Example:
    """An example without an answer, with that of the dense model; a text is spelled by the tokens that are left."""
    candidates = found.candidates
    if task_model.kind is TaskKind.generation:
        spelled = (token for dense in example.candidates[0] for token in vocabulary.spelled(dense))
        candidates = (tuple(spelled),)
    # Where a tagged text has more tokens than before, its last words may be cut.
    return replace(
        found,
        candidates=candidates,
        answer=example.answer,
        text=example.text,
        target=example.target,
        tags=example.tags[: len(found.tags)],
        row=example.row,
        dense_tokens=len(example.prompt),
    )

"""The recovery of a slim model on the calibration rows of its tasks, and the checks that it needs."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

from transformers import PreTrainedModel

from service.contract.answers.result import RationaleTraining, RecoveredMetrics, RecoveryResult, Verified
from service.contract.errors import blaming_task
from service.contract.options import TaskKind
from service.contract.request.recovery import Recovery, check_kind, check_rank, check_rows, weight_of_labels
from service.storage.artifact_names import UNTRAINED
from worker.data import batching
from worker.data.examples import Example
from worker.evaluation import answer_scores
from worker.recovery import recovered
from worker.recovery.recovered import Recovered, TrainingRows
from worker.recovery.rows import RunningModel, SplitRows, StoredScores, Teacher, TrainingTask, split, stratified
from worker.recovery.training import OnStep, Settings, Training
from worker.slimming.recovery.losses import LOSSES, TaskLoss, vocabulary
from worker.stages.context import JobContext
from worker.stages.evaluation.evaluation_sets import SLIMMED_FOR, EvaluationSet, having_role
from worker.stages.task_model import TaskModel, with_examples, worded
from worker.synthesis import rationales

# Gives the dense model, which is loaded only where it is needed.
DenseModel = Callable[[], PreTrainedModel]


def check(context: JobContext, sets: Sequence[EvaluationSet]) -> None:
    """Raise InvalidRequest for a recovery that the tasks, their rows or the model do not suit."""
    asked = context.job.request.recovery
    if asked is None:
        return
    for place, each in zip(context.job.request.placed_tasks, having_role(sets, *SLIMMED_FOR), strict=True):
        task_model = each.task_model
        check_kind(asked, task_model.kind, has_labels=_has_labels(task_model))
        check_rank(asked, task_model.loaded.model.config.get_text_config().hidden_size)
        with blaming_task(place):
            check_rows(len(task_model.calibration.examples))


def with_rows_held_out(context: JobContext, sets: Sequence[EvaluationSet]) -> list[EvaluationSet]:
    """The sets of a job with a recovery, without the held-out rows among the calibration rows of each task.

    A repair fits the model to its rows so well that what it has seen cannot tell whether a training helps.
    """
    asked = context.job.request.recovery
    assert asked is not None, "the request has a recovery"
    return [
        replace(each, task_model=_with_rows_held_out(context, asked, each.task_model))
        if each.role in SLIMMED_FOR
        else each
        for each in sets
    ]


def _with_rows_held_out(context: JobContext, asked: Recovery, task_model: TaskModel) -> TaskModel:
    rows = task_model.calibration
    given = [example for example in rows.examples if not example.is_written]  # the written ones are behind them
    found = split(given, asked.rows, context.job.request.method.seed)
    found = replace(found, train=[*found.train, *range(len(given), len(rows.examples))])
    stay, held_out = (
        with_examples(context, task_model, rows, [rows.examples[row] for row in part])
        for part in (found.train, found.held_out)
    )
    return replace(task_model, calibration=stay, held_out=held_out)


def recover(
    context: JobContext, slim: TaskModel, tasks: Sequence[TaskModel], dense: DenseModel, on_step: OnStep
) -> Recovered:
    """A trained copy of the slim model. `tasks` has the rows of each task that the model is slimmed for, some held out.

    Raises VerificationFailed, and what `on_step` raises.
    """
    request = context.job.request
    asked, seed, tokens = request.recovery, request.method.seed, context.settings.tokens_per_batch
    assert asked is not None, "the request has a recovery"
    assert slim.probe is not None, "the model is cut"
    settings = Settings(
        learning_rate=asked.learning_rate,
        epochs=asked.epochs,
        steps=asked.steps,
        batch_size=asked.batch_size,
        seconds=asked.seconds,
        seed=seed,
        tokens_per_batch=tokens,
    )
    splits = [_split(asked, each, seed) for each in tasks]
    loaded_once = cache(dense)
    answers = TrainingRows([_training_task(asked, each, loaded_once, tokens, on_step) for each in tasks], splits)
    first = _rationales(asked, tasks, splits, loaded_once, tokens) if asked.reads_rationales else None
    inputs = {name: value.to(slim.loaded.model.device) for name, value in slim.probe.inputs.items()}
    return recovered.recover(slim.loaded, answers, inputs, asked.rank, settings, on_step, rationales=first)


def _rationales(
    asked: Recovery, tasks: Sequence[TaskModel], splits: Sequence[SplitRows], dense: DenseModel, tokens: int
) -> TrainingRows:
    """The rationales of the rows, which are held out where their rows are."""
    training, found = [], []
    for each, split_rows in zip(tasks, splits, strict=True):
        examples = [example.rationale for example in _examples(each)]
        train, held_out = (
            [rationale for row in rows if (rationale := examples[row]) is not None]
            for rows in (split_rows.train, split_rows.held_out)
        )
        _, padding = worded(each.loaded, rationales.written_as(each.wording.task), tokens)
        loss, weight = LOSSES[TaskKind.generation], weight_of_labels(asked)
        teacher = RunningModel(dense(), loss) if weight < 1 else None
        training.append(TrainingTask([*train, *held_out], padding, loss, weight, teacher))
        numbers = list(range(len(train) + len(held_out)))
        found.append(SplitRows(numbers[: len(train)], numbers[len(train) :]))
    return TrainingRows(training, found)


def _split(asked: Recovery, task_model: TaskModel, seed: int) -> SplitRows:
    """The rows to train on and those that are held out, as indices of `_examples`."""
    assert task_model.held_out is not None, "rows are held out"
    stay, held_out = len(task_model.calibration.examples), len(task_model.held_out.examples)
    most = None if asked.rows is None else asked.rows - held_out
    train = stratified(task_model.calibration.examples, seed)[:most]
    return SplitRows(train=train, held_out=list(range(stay, stay + held_out)))


def _examples(task_model: TaskModel) -> list[Example]:
    """All calibration rows, the held-out ones last."""
    assert task_model.held_out is not None, "rows are held out"
    return [*task_model.calibration.examples, *task_model.held_out.examples]


def _training_task(
    asked: Recovery, task_model: TaskModel, dense: DenseModel, tokens: int, on_step: OnStep
) -> TrainingTask:
    loss, weight = LOSSES[task_model.kind], weight_of_labels(asked)
    teacher = _teacher(task_model, loss, dense(), tokens, on_step) if weight < 1 else None
    return TrainingTask(_examples(task_model), task_model.padding, loss, weight, teacher)


def _teacher(task_model: TaskModel, loss: TaskLoss, dense: PreTrainedModel, tokens: int, on_step: OnStep) -> Teacher:
    """The dense model's scores of the calibration rows; of texts the model itself, because they have one for each entry
    of the vocabulary."""
    if loss.outputs is vocabulary:
        return RunningModel(dense, loss)
    batches = batching.batches(_examples(task_model), task_model.padding, tokens)
    return StoredScores(answer_scores.score(dense, batches, lambda done: on_step(0, 1)))


def result(asked: Recovery, found: Recovered, metrics: RecoveredMetrics, verified: Verified) -> RecoveryResult:
    """What the result of a job says of its recovery."""
    training = found.training
    stages = [each for each in (found.rationales, training) if each is not None]
    return RecoveryResult(
        metrics=metrics,
        losses=training.losses,
        rationales=_rationale_training(found.rationales),
        steps=training.steps,
        best_step=training.best_step,
        stopped_by=training.stopped_by,
        seconds=round(sum(each.seconds for each in stages), 3),
        train_rows=training.train_rows,
        held_out_rows=training.held_out_rows,
        tokens=sum(each.tokens for each in stages),
        lora_parameters=found.lora_parameters,
        rank=asked.rank,
        learning_rate=asked.learning_rate,
        label_weight=weight_of_labels(asked),
        merge_difference=found.merge_difference,
        artifact=UNTRAINED,
        verified=verified,
    )


def _rationale_training(training: Training | None) -> RationaleTraining | None:
    if training is None:
        return None
    names = set(RationaleTraining.model_fields)
    return RationaleTraining(**{name: value for name, value in vars(training).items() if name in names})


def _has_labels(task_model: TaskModel) -> bool:
    """Whether the calibration rows came with right answers."""
    has_answers = task_model.calibration.answered and task_model.own_answers is None
    return has_answers and task_model.kind is not TaskKind.embedding

"""The cells of the benchmark of the neighbouring papers: what is measured, in the order in which it is."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, product

T5_TASKS = ("ag_news", "trec", "subj", "sst2", "imdb")
SMALL_RATIOS = (0.05, 0.1, 0.2, 0.3, 0.4)
FORMS = ("selectivity", "selectivity ratio", "selectivity standardised")  # without a name: difference
DEV_RATIOS = (0.1, 0.2)
LAYERWISE = "least_squares_layerwise"
SMOLLM2_TASKS = ("sst2", "squad_short")
REPAIRS = ("none", LAYERWISE)
RANDOM_SEEDS = (0, 1)
WEIGHTS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
UNION_RULES = ("sum", "max", "vote")
UNIONS = (*combinations(T5_TASKS, 2), *combinations(T5_TASKS, 4))
SUPERVISIONS = ("labels", "own answers", "entropy")
MOE_TASKS = ("sst2", "ag_news", "trec", "subj")  # of the model that train_moe.py trains
EXPERT_RATIOS = (0.25, 0.5, 0.75)
EXPERT_CRITERIA = ("attribution", "second_moment", "frequency", "router_weight", "reap", "easy_ep", "random", "reverse")
MERGE_RULES = ("mean", "log_sum_exp")  # of the rows of the router; experts are weighted by their frequency


@dataclass(frozen=True)
class Cell:
    """One slim model. `tasks` are those that it is slimmed for; general ability is what else it can do."""

    part: str  # selectivity, selectivity dev, dial, union, supervision or experts
    model: str
    tasks: tuple[str, ...]
    method: str
    ratio: float
    repair: str
    weight: float = 0.0  # of general rows
    seed: int = 0

    @property
    def key(self) -> str:
        """The name of the cell: its fields, joined by slashes."""
        fields = (self.part, self.model, "+".join(self.tasks), self.method, self.ratio, self.repair)
        return "/".join(map(str, (*fields, self.weight, self.seed)))


def dense(part: str, model: str, tasks: tuple[str, ...]) -> Cell:
    """The cell of the dense model."""
    return Cell(part, model, tasks, "dense", 0.0, "none")


def selectivity(model: str, task: str) -> Iterator[Cell]:
    """Selective, random and reverse removal of feed-forward neurons, the same share of every layer."""
    yield dense("selectivity", model, (task,))
    lines = [*((form, 0) for form in FORMS), ("reverse", 0), *(("random", seed) for seed in RANDOM_SEEDS)]
    for repair, ratio, (method, seed) in product(REPAIRS, SMALL_RATIOS, lines):
        yield Cell("selectivity", model, (task,), method, ratio, repair, seed=seed)


def selectivity_forms(model: str, task: str) -> Iterator[Cell]:
    """The forms of `selectivity` on dev rows, so that the default is not chosen on test rows."""
    yield dense("selectivity dev", model, (task,))
    for ratio, form in product(DEV_RATIOS, FORMS):
        yield Cell("selectivity dev", model, (task,), form, ratio, "none")


def dial(model: str, tasks: tuple[str, ...]) -> Iterator[Cell]:
    """Half removed, by both rules of general rows at each weight."""
    for task in tasks:
        yield dense("dial", model, (task,))
        for weight, method in product(WEIGHTS, ("mixture", "shared_exclusive")):
            if weight or method == "mixture":
                yield Cell("dial", model, (task,), method, 0.5, LAYERWISE, weight=weight)


def unions(model: str) -> Iterator[Cell]:
    """Two and four tasks at once, by each rule."""
    for tasks in UNIONS:
        yield dense("union", model, tasks)
        for ratio, rule in product((0.5, 0.7), UNION_RULES):
            yield Cell("union", model, tasks, rule, ratio, LAYERWISE)


def supervision(model: str, tasks: tuple[str, ...]) -> Iterator[Cell]:
    """Rows without labels: the model's own answers, or the entropy of its answers, beside the labels."""
    for task in tasks:
        yield dense("supervision", model, (task,))
        for ratio, method, repair in product((0.5, 0.7), SUPERVISIONS, REPAIRS):
            yield Cell("supervision", model, (task,), method, ratio, repair)


def experts(task: str) -> Iterator[Cell]:
    """Whole experts of a mixture, the same number of every layer: removed by each criterion, or merged."""
    yield dense("experts", "moe", (task,))
    lines = [(name, seed) for name in EXPERT_CRITERIA for seed in (RANDOM_SEEDS if name == "random" else (0,))]
    lines += [(f"merge {rule}", 0) for rule in MERGE_RULES]
    for ratio, (method, seed) in product(EXPERT_RATIOS, lines):
        yield Cell("experts", "moe", (task,), method, ratio, "none", seed=seed)


def plan(*, quick: bool) -> list[Cell]:
    """All cells, the quickest first; with `quick` one task of the small T5."""
    small = T5_TASKS[:1] if quick else T5_TASKS
    cells = [*dial("t5", small), *supervision("t5", small)]
    if quick:
        return cells
    cells += [cell for task in MOE_TASKS for cell in experts(task)]
    cells += unions("t5")
    for lines in (selectivity_forms, selectivity):
        cells += [cell for task in SMOLLM2_TASKS for cell in lines("smollm2", task)]
    return cells

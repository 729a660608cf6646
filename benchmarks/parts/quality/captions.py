"""The text of the quality benchmark's tables: names of layouts and repairs, and one caption for each table."""

LAYOUTS = ("per_layer", "uniform")
REPAIRS = {"none": "no repair", "least_squares": "least squares", "least_squares_layerwise": "layer by layer"}
FORMS = {"per_layer": "per layer, FFN and heads", "uniform": "equal, FFN alone"}
WIDTHS = {"per_layer": "per layer", "uniform": "equal"}
TASK_NAMES = {"trec": "TREC", "subj": "SUBJ", "cola": "CoLA", "rte": "RTE"}
REPAIR_NAMES = REPAIRS | {"bias": "bias"}

INTRODUCTION = """\
## Quality: how much of a task a slim model keeps

Models: SmolLM2-135M-Instruct with a multi-task LoRA adapter merged into it, and a small T5. Units: FFN neurons and
key-value groups of attention in one budget, unless a table says otherwise. Calibration: 256 train rows of the task,
seed 0. Evaluation: 200 test rows, seed 0. Widths are multiples of 1 (layout `per_layer`) or 64 (`uniform`).
"70% removed" means 70 % of the parameters of the units. Accuracy is raw, without label offsets, unless a caption says
otherwise. Intervals are 95 %. A dot marks what is not measured."""

HEADLINE = """\
The figure that a job reports: accuracy, of CoLA the Matthews correlation, with label offsets that are fitted on the
calibration rows, in percent of the dense model's with its own. Repair `least_squares_layerwise`, the default. The six
tasks are SST-2, IMDB, AG News, MNLI, QNLI and MRPC, mean over 200 test rows each. TREC, SUBJ, CoLA and RTE, on which no
default was chosen, have all of their 400, 978, 700 and 277 test rows. A dot: not measured, or the dense model is no
better than a constant answer."""

KINDS = """\
The metric of each task on all of its test rows, of written texts on 200, in percent of the dense model's, with label
offsets where it has labels. 256 calibration rows, the default repair. Of encoders the feed-forward neurons are
removed, of SmolLM2 with per-layer widths FFN and heads. The models are trained by `train_heads.py` and
`train_adapter.py`. Intervals take the dense model's figure as exact."""

FEW_ROWS = """\
Accuracy in percent of the dense model's, with label offsets fitted on the calibration rows, as a job reports it, and
raw. Half of the units are removed, per-layer widths, the default criterion and repair, 200 test rows of each task. Few
rows have the same number of each label, so that offsets fitted on them assume equally frequent labels: the mean of five
draws, with the least and the most of one. The 256 rows are drawn without regard to labels."""

OTHER_DOMAINS = """\
The same figure of models that are slimmed on 256 rows of one data set and judged on another with the same labels."""

MEANS = """\
Mean accuracy over six tasks (SST-2, IMDB, AG News, MNLI, QNLI, MRPC), in percent of the dense model's.
`attribution_signed` is the form of the paper: the gradient of the probability, summed with its sign over tokens and
examples. Scores are normalised by layer for `flap` (standardised), `wanda`, `activation`, `magnitude` and `random`
(divided by their mean)."""

LEADS = """\
Difference between `surgeon` and each other criterion with the same repair, layout and ratio, in percent of the dense
model's mean accuracy; negative where `surgeon` is worse."""

FINALISTS = {
    "smollm2": """\
All test rows: 1,000 each of SST-2, AG News, MNLI and QNLI, 700 of IMDB, 408 of MRPC; per-layer widths.""",
    "t5": "All test rows of the five tasks; per-layer widths.",
}

UNSUPERVISED = """\
The labels of the 256 calibration rows are replaced by the dense model's answers; the evaluation rows keep theirs."""

CHOICES = "Comparisons for the choice of the defaults, on 200 train rows that are never used for calibration."

TASKS = "Accuracy of each task, FFN neurons and key-value groups."

T5 = """\
The small T5 (4.9M parameters, five tasks), FFN neurons and heads: mean over its five tasks in percent of the dense
model's."""

SECONDS = {
    "smollm2": "Median time of three runs to score all units on the same 48 rows of SST-2, float32, two threads.",
    "t5": "Median time of three runs to score all units on the same 48 rows of AG News, float32, two threads.",
}

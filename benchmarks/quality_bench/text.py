"""The words of RESULTS.md's part on quality: between its tables, and what its rows are called."""

LAYOUTS = ("per_layer", "uniform")
REPAIRS = {"none": "no repair", "least_squares": "least squares", "least_squares_layerwise": "layer by layer"}
REPAIR_NAMES = REPAIRS | {"bias": "bias"}  # also of those that no criterion is compared with

INTRODUCTION = """\
## Quality: how much of a task a slimmed model keeps

The model is SmolLM2-135M-Instruct with a LoRA adapter that makes it a multi-task model, merged. Units are the FFN
neurons and the key-value groups of attention (106M of its 135M parameters; the rest is embeddings), in one budget
unless a table says otherwise; "70% removed" is 70 % of their parameters. Every cut is calibrated on 256 train rows of
its task (seed 0) and judged on 200 fixed test rows (seed 0). Nothing was trained, and nothing was chosen on test rows.
Per-layer widths are exact (`round_to: 1`), uniform ones multiples of 64.
Accuracy is calibrated: each label's mean log-probability over the judged rows is subtracted, so that a drift of the
bias towards a label is not taken for a loss of the task; raw accuracy stands beside it in the tables by task.
Intervals are 95 % (Wilson for an accuracy; for a mean over tasks ± 1.96 standard errors of the rows judged).
Computed in bfloat16 on a CPU with 2 cores, torch 2.13; in float32, on one without instructions for bfloat16, were
32 and 64 examples, rows without labels at a half, and of `surgeon` layer by layer FFN neurons alone, equal widths at a
half, and four cells more (per-layer SST-2 at 30 % and QNLI at a half, uniform SST-2 and AG News at 70 %). Eleven cells
that were measured on both have 0.5 points of accuracy more in bfloat16 on average, and differ by 4.5 at most.
A dot means: not measured yet.

    .venv/bin/python benchmarks/quality.py --grid   # also --dev, --settings, --finalists; goes on where it stopped"""

HEADLINE = """\
By the criterion `surgeon`, the default with both fits; without a repair the service takes `attribution` (see below)."""

MEANS = """\
Mean over six tasks (SST-2, IMDB, AG News, MNLI, QNLI, MRPC) of the accuracy, in percent of the uncut model's.
`surgeon` is the service's default with a repair that fits what stays anew: attribution of what the other units cannot
make up for (margin objective). Without such a repair the default is `attribution`, chosen on train rows (below).
`attribution` squares each example's sum of activation times gradient, with the same objective; `second_moment` sums the
squares of every token's attribution instead. `attribution_signed` is the form of the paper as far as it is known: the
probability's gradient, summed with its sign over tokens and examples. Statistics whose scale means nothing
across layers are ranked globally after a normalisation: `flap` standardised, as in its paper, `wanda`, `activation`,
`magnitude` and `random` divided by their mean over the layer."""

LEADS = """\
Points of the uncut model's mean accuracy between `surgeon` and each other criterion with the same repair, layout
and ratio; negative where it trails. With equal widths, `least_squares_layerwise` was measured with the two baselines
that come nearest."""

FINALISTS = {
    "smollm2": """\
The defaults, and with the cheaper repair the best of ours, of the rivals and of the baselines of the tables above;
per-layer widths, judged on all test rows: 1,000 each of SST-2, AG News, MNLI and QNLI, 700 of IMDB, 408 of MRPC.
With `least_squares`, `attribution` is level with ours up to 60 % (0.8 ahead at a half, 0.5 behind at 60 %, within the
interval); at 70 and 80 % it is 2.7 and 7.3 behind.""",
    "t5": "The same, judged on all test rows of the five tasks.",
}

UNSUPERVISED = """\
Calibrated on the same 256 rows, whose labels are replaced by the uncut model's likeliest ones; judged against the
labels of the test rows."""

CHOICES = """\
Judged on 200 train rows that no calibration sees. The adapter was trained on some of the train rows, so that these
accuracies are higher than on test rows; they serve to compare choices with each other.

Before that, on MNLI alone at 70 % with per-layer widths (200 dev rows, one seed), as the correlation of the calibrated
label scores with the uncut model's, which tells more than the accuracy of 200 rows does: `attribution` with a fit that
weighs every token alike 0.59, with the weighted fit 0.70; `surgeon` with the plain fit 0.70, with the weighted one
0.82. After that nothing more was gained by removing in two steps with all of it measured anew on the repaired model
(0.81), by fitting layer by layer to the dense model's own outputs (0.82), by another ridge (0.001: 0.81), or by
counting heads at 0.3 or 3 times their score (0.77, 0.66).

Nor by other sums for the same score, on 200 and 300 dev rows of SST-2 with per-layer widths and `least_squares`,
where the default's correlation is 0.85 at 70 % and 0.949 at a half: 0.1, 1 and 100 times its mean added to the diagonal
of the effects' matrix S (0.845, 0.859, 0.779 at 70 %), tokens weighed by their gradient to 80, 95 or 100 % in place of
50 (0.844, 0.867, 0.859), a tenth or three tenths of itself added to the diagonal of the spread (0.842 and 0.843; at a
half 0.951 and 0.960), the geometric mean with `second_moment` (0.845; at a half 0.962; with weights of three to one
0.846 and 0.957, of one to three 0.822 and 0.957). What gains at a half loses at 70 %.

Uniform widths fall behind at 70 % because every layer then has one of its three key-value groups left, whatever it
needs. On 200 dev rows each of SST-2 and QNLI (accuracy 0.735 and 0.635 with equal widths alone) nothing that stays
uniform helped both: leaving out the 4, 8 or 12 layers with the lowest scores and making the rest wider (0.78, 0.77,
0.68; 0.55, 0.515, 0.575), two groups and fewer neurons (0.695; 0.575), a fit layer by layer (0.76 on SST-2). Part of it
was that more went than was asked for, 72.9 % on four of the six tasks: a group of every layer is 8 % of all, and the
widths of the neurons did not yet make up for what it missed. They do in the tables above.

What does help is the repair `least_squares_layerwise`: after `least_squares`, one walk from the first layer to the
last that fits each output to the dense model's residual stream, so that a layer makes up for what those before it
have lost. On 400 dev rows at 70 %, as accuracy and as correlation with the uncut model's scores, by a prototype:
uniform SST-2 0.763 and 0.738 become 0.805 and 0.803 where half of the error is made up for with ridge 0.03, and 0.798
and 0.789 where all of it is with ridge 0.1; uniform QNLI 0.645 and 0.596 become 0.650 and 0.639 (half, 0.03), 0.648
and 0.652 (three quarters, 0.1), 0.635 and 0.656 (all, 0.3); per-layer MNLI 0.540 and 0.805 become 0.553 and 0.831
(half, 0.03), 0.550 and 0.835 (three quarters, 0.1). With none of the error made up for there is no gain, without
weights for the tokens less. Three quarters and ridge 0.1 are in the product; by it, with the same rows: uniform SST-2
0.755 becomes 0.840; with FFN neurons alone 0.835 becomes 0.860 on SST-2 and 0.715 becomes 0.728 on QNLI.

It is the default repair since. Where FFN neurons go alone, which is what a job does unless told otherwise, it keeps 1.9
points more at 30 % (two tasks), 0.8 at a half and as much at 70 % (four tasks, 200 dev rows each; the table has them);
on the T5 the nine comparisons below lie between 0.5 points less and 1.2 more, 0.2 more on average. It passes the rows
through the dense model once more and through the cut one once for each module that reads units in a layer, and takes no
more memory than the fit of all at once, since one layer is cut at a time.

Where a repair fits nothing anew, `surgeon` counts on a fit that never comes: without a repair `attribution` keeps 1.5,
13.7 and 10.6 points more at 30, 50 and 70 % with per-layer widths, 0.8, 1.3 and 10.1 of FFN neurons alone, and with
`bias` 12.0 at a half (two tasks). It is the default criterion there. On the T5, which loses little without a repair, it
keeps 1.0 and 0.5 points more at 30 and 50 % with per-layer widths and 3.3 less at 70 %; of FFN neurons alone the two
are level.

What the options of a criterion do was measured on the T5, where a comparison takes seconds (`attribution_...` and
`surgeon_...`: with that one option changed; `attribution_signed`: the paper's form). For `attribution` the margin is
ahead of every other objective by 1.7 points or more, the mean over tokens ahead of the sum by 2.2 and 3.2 (it takes
away the weight of an encoder's many tokens beside a decoder's one), and what else is changed loses at a half, at 70 %,
or at both. For `surgeon` the probabilities are ahead at 70 % by 2.0 and 3.5 points, and behind by 0.5 and 1.1 at a
half; four steps in place of one are ahead by 3.1 at 70 %. None of these is beyond the intervals of both, and the
defaults stay."""

TASKS = "Calibrated accuracy with its interval, FFN neurons and key-value groups."

T5 = """\
The trained T5 fixture (4.9M parameters, five tasks), FFN neurons and heads: mean over its five tasks in percent of the
uncut model's.

No repair gains accuracy here, and the reason is that there is little to gain: two layers each of encoder and decoder,
384 neurons wide, of which a task uses so few that half of all go unrepaired for less than the interval. The repair does
do what it is for. On 400 dev rows a task the label scores, centred by row and label, correlate with the uncut model's
by 0.967 without a repair and 0.973 with `least_squares` at a half, 0.909 and 0.926 at 70 % (per-layer; uniform 0.963
and 0.969, 0.896 and 0.916), while calibrated accuracy moves by a point at most and raw accuracy gains up to 1.9 points,
at 70 % with uniform widths. It is not that the decoder has but 256 tokens to be fitted on: fitting the encoder alone,
the decoder alone, the FFN or the heads alone, or with ten or a hundred times the ridge, comes within a point of it.

With the default repair and per-layer widths the default criterion trails `attribution`, `second_moment` and `gisp` by
up to 2.4 points at 30 and 50 %, which is within the interval, and is ahead of all others at 70 %."""

SECONDS = {
    "smollm2": """\
Median time of three to score all units on the same 48 rows of SST-2, one criterion after the other in one process of
two threads, float32 on a CPU with AVX2 alone. Of `surgeon`'s time some 22 s followed the removals of the FFN neurons
one by one, 0.72 s a layer whatever the number of rows (0.56 s since).""",
    "t5": """\
The same for 48 rows of AG News. The model is so small that what a criterion does beside the passes weighs more.""",
}

"""The values that the fields of a request may take."""

from enum import StrEnum


class TaskKind(StrEnum):
    """What the model answers."""

    classification = "classification"  # one of a fixed set of labels
    multi_label = "multi_label"  # any number of labels, each decided by itself
    token_classification = "token_classification"  # a tag for each word of a text
    regression = "regression"  # a number, the one output of a head
    generation = "generation"  # a text
    embedding = "embedding"  # the embeddings of texts, of an encoder without a head
    language_modelling = "language_modelling"  # the next token of a plain text


class TaskMetric(StrEnum):
    """The figure that a model is judged by."""

    accuracy = "accuracy"  # share of rows with the right label
    balanced_accuracy = "balanced_accuracy"  # mean over the labels of the share of their rows that are answered rightly
    macro_f1 = "macro_f1"  # mean over the labels of the F1 score
    micro_f1 = "micro_f1"  # F1 score of all decisions on labels
    matthews = "matthews"  # Matthews' correlation coefficient
    entity_f1 = "entity_f1"  # F1 score of the entities that BIO tags mark, each whole and of the right type
    tag_accuracy = "tag_accuracy"  # share of words with the right tag
    pearson = "pearson"  # correlation of the outputs and the right numbers
    spearman = "spearman"  # correlation of their ranks
    exact_match = "exact_match"  # share of generated texts that equal the target
    token_f1 = "token_f1"  # F1 score of the words of a generated text, as SQuAD counts them; mean over the rows
    rouge_l = "rouge_l"  # ROUGE-L F1 score of a generated text; mean over the rows
    chrf = "chrf"  # chrF2 score of a generated text; mean over the rows
    token_probability = "token_probability"  # geometric mean of the probabilities of the targets' tokens
    cosine_similarity = "cosine_similarity"  # of an embedding and that of the dense model; mean over the rows
    recall_at_10 = "recall_at_10"  # share of rows whose second text is among the 10 nearest ones to the first


# The metrics of each kind of task, its default first.
METRICS: dict[TaskKind, tuple[TaskMetric, ...]] = {
    TaskKind.classification: (
        TaskMetric.accuracy,
        TaskMetric.balanced_accuracy,
        TaskMetric.macro_f1,
        TaskMetric.matthews,
    ),
    TaskKind.multi_label: (TaskMetric.micro_f1, TaskMetric.macro_f1),
    TaskKind.token_classification: (TaskMetric.entity_f1, TaskMetric.tag_accuracy),
    TaskKind.regression: (TaskMetric.pearson, TaskMetric.spearman),
    TaskKind.generation: (
        TaskMetric.exact_match,
        TaskMetric.token_f1,
        TaskMetric.rouge_l,
        TaskMetric.chrf,
        TaskMetric.token_probability,
    ),
    TaskKind.embedding: (
        TaskMetric.cosine_similarity,
        TaskMetric.spearman,
        TaskMetric.pearson,
        TaskMetric.recall_at_10,
    ),
    TaskKind.language_modelling: (TaskMetric.token_probability,),
}


class DropReason(StrEnum):
    """Why a text that a language model wrote is not used."""

    malformed = "malformed"  # a column is missing or empty
    only_answer = "only_answer"  # it has no words but those of answers
    duplicate = "duplicate"  # of a given or an earlier text
    too_long = "too_long"  # for the model that reads it, or that is to write it
    inconsistent = "inconsistent"  # the answer to it is another one


class Collapse(StrEnum):
    """How the answers of a cut model no longer depend on the rows."""

    one_label = "one_label"  # nearly every row gets the same label
    empty = "empty"  # most texts are empty
    repetition = "repetition"  # most texts repeat themselves


class Unit(StrEnum):
    """A kind of unit, the smallest part of a model that is removed as a whole."""

    ffn = "ffn"  # feed-forward neurons
    heads = "heads"  # attention heads; with grouped queries, whole key-value groups
    head_dims = "head_dims"  # dimensions of the heads, the same number in every head
    layers = "layers"  # whole transformer blocks
    experts = "experts"  # experts of a mixture of experts, with their rows of the router
    vocabulary = "vocabulary"  # tokens that the text of the task does not need: rows of embedding and head


class Objective(StrEnum):
    """The scalar of an example whose gradient the criterion uses."""

    probability = "probability"  # sum over the answer's tokens of P(token)
    sequence_probability = "sequence_probability"  # P(answer), the product over its tokens
    log_probability = "log_probability"  # log P(answer)
    # log P(right label) - max over wrong labels of log P(label); of tags the sum over words, of several labels the
    # log-odds
    margin = "margin"
    output = "output"  # the output of a regression head
    projection = "projection"  # the normalised embedding along a random direction
    # entropy of the labels, of texts the sum over the answer's tokens of that of the vocabulary; needs no right answer
    entropy = "entropy"


class TokenReduction(StrEnum):
    """How the products h · ∂m/∂h of an example's tokens are reduced to one number."""

    sum = "sum"
    mean = "mean"
    max = "max"
    square = "square"  # sum of squares


class Sign(StrEnum):
    """Whether the products h · ∂m/∂h keep their sign or count by their absolute value."""

    signed = "signed"
    absolute = "absolute"


class ExampleReduction(StrEnum):
    """How the numbers of all examples are reduced to the score of a unit."""

    sum = "sum"
    square = "square"  # mean of squares


class Repair(StrEnum):
    """How the weights of the kept units are changed to replace the removed ones, without training."""

    none = "none"
    bias = "bias"  # the mean of what is removed is added to a bias, where the family's stock config has one
    least_squares = "least_squares"  # the matrices that read the units are refitted, from the dense activations
    least_squares_layerwise = "least_squares_layerwise"  # then layer by layer, from those of the cut model


FITTED = (Repair.least_squares, Repair.least_squares_layerwise)  # the repairs that refit weights


class Merge(StrEnum):
    """Whether removed experts are merged into those that stay, without training."""

    none = "none"
    uncurl = "uncurl"  # experts with similar router logits are aligned and averaged


class MergedRouter(StrEnum):
    """How the router's row of a merged expert is computed from those of its cluster."""

    log_sum_exp = "log_sum_exp"  # its logit is nearest to the log-sum-exp of theirs: their probabilities are added up
    mean = "mean"  # the mean of the rows, weighted by the scores


class Scope(StrEnum):
    """Which units are ranked against each other."""

    layer = "layer"  # the units of one layer: the same share is removed from every layer
    all = "global"  # all units, by score per parameter: all kinds of units share one budget


class Supervision(StrEnum):
    """Where the right answers of the calibration rows come from."""

    labels = "labels"  # the rows
    none = "none"  # the dense model's own answers


class Draw(StrEnum):
    """How rows are drawn from a data set."""

    natural = "natural"  # every row with the same probability
    balanced = "balanced"  # the same number of rows for each label, up to one


class UnionRule(StrEnum):
    """How the normalised scores of several tasks are combined."""

    sum = "sum"  # units that are of use to all tasks together rank highest
    max = "max"  # units that any one task needs rank highest
    vote = "vote"  # units that a majority of the tasks, each alone, would keep


class Selectivity(StrEnum):
    """How the criterion `selectivity` compares the mean of |h| on the task's rows with that on general rows."""

    difference = "difference"
    ratio = "ratio"
    standardised = "standardised"  # the difference divided by the standard deviations


class GeneralRule(StrEnum):
    """How general rows take part in the scores."""

    mixture = "mixture"  # the moments of both kinds of rows are mixed
    # units that are more active on the rows of one kind count by their score there, the others by the higher score
    shared_exclusive = "shared_exclusive"


class Normalisation(StrEnum):
    """What the scores of each layer and kind of unit are divided by before they are ranked globally."""

    none = "none"
    mean = "mean"
    standard = "standard"  # the standard deviation, after the mean is subtracted


class Layout(StrEnum):
    """How the widths of the checkpoint may differ between layers."""

    uniform = "uniform"  # the same width in every layer of a stack; the only layout that every stock runtime loads
    per_layer = "per_layer"  # a width for each layer; loaded by a model class that the checkpoint contains


class Format(StrEnum):
    """In which form the slim model is stored."""

    safetensors = "safetensors"  # the checkpoint
    indices = "indices"  # kilobytes, from which `taskslim apply` and the base model make the checkpoint
    gguf = "gguf"  # files for llama.cpp
    onnx = "onnx"  # a graph for onnxruntime, and its configs
    mlx = "mlx"  # a checkpoint for mlx-lm


# Formats that the worker converts the verified checkpoint to. Each is compared with it before the job succeeds.
EXPORTS = (Format.gguf, Format.onnx, Format.mlx)


class GgufType(StrEnum):
    """How a GGUF file stores the weight matrices; norms and biases are always f32."""

    f32 = "f32"
    f16 = "f16"
    bf16 = "bf16"
    q8_0 = "q8_0"  # 8 bits, a scale for each 32 weights of a row
    q6_k = "q6_k"  # the K-quants, which llama.cpp's own quantiser writes
    q5_k_m = "q5_k_m"
    q4_k_m = "q4_k_m"


K_QUANTS = (GgufType.q6_k, GgufType.q5_k_m, GgufType.q4_k_m)


class Precision(StrEnum):
    """How a quantised copy of the model stores the weight matrices of its layers; all else stays as it is."""

    int8 = "int8"  # 8 bits, a scale for each row: weight-only, of torchao
    w8a8 = "w8a8"  # the same weights; activations are rounded to 8 bits as they are computed: compressed-tensors
    w4a16 = "w4a16"  # 4 bits, a scale for each group of a row, calibrated by GPTQ: compressed-tensors

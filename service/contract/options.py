"""The values that the fields of a request may take."""

from enum import StrEnum


class TaskKind(StrEnum):
    classification = "classification"
    generation = "generation"


class Unit(StrEnum):
    """What is removed as a whole."""

    ffn = "ffn"  # feed-forward neurons
    heads = "heads"  # attention heads; with grouped queries, whole key-value groups
    head_dims = "head_dims"  # dimensions of every head, as many in each
    layers = "layers"  # whole blocks


class Objective(StrEnum):
    """The scalar of an example whose gradient attribution takes."""

    probability = "probability"  # sum over the answer's tokens of P(token)
    sequence_probability = "sequence_probability"  # P(answer), the product over its tokens
    log_probability = "log_probability"  # log P(answer)
    margin = "margin"  # log P(right label) - max over wrong labels of log P(label)


class TokenReduction(StrEnum):
    """How the activation-times-gradient products of an example's tokens become one number."""

    sum = "sum"
    mean = "mean"
    max = "max"
    square = "square"  # sum of squares


class Sign(StrEnum):
    """Whether products that push against the answer count as negative or by their size."""

    signed = "signed"
    absolute = "absolute"


class ExampleReduction(StrEnum):
    """How the numbers of all examples become a unit's score."""

    sum = "sum"
    square = "square"  # mean of squares


class Repair(StrEnum):
    """What the kept units do for those that go, without training."""

    none = "none"
    bias = "bias"  # the mean of what goes, folded into a bias where the family's stock config can hold one
    least_squares = "least_squares"  # re-fit of the reading matrices, all from the dense activations
    least_squares_layerwise = "least_squares_layerwise"  # then layer by layer, to make up for the layers before


FITTED = (Repair.least_squares, Repair.least_squares_layerwise)  # fit the weights of what stays anew


class Scope(StrEnum):
    """Which units are ranked against each other."""

    layer = "layer"  # those of one layer: every layer gives up the same share
    all = "global"  # all, by score per parameter: kinds of units share one budget


class Supervision(StrEnum):
    """Where the right answers of the calibration rows come from."""

    labels = "labels"  # the rows
    none = "none"  # the dense model: what it answers


class Draw(StrEnum):
    """How rows are drawn from a data set."""

    natural = "natural"  # every row is as likely as any other
    balanced = "balanced"  # as many of each label as of any other, or one more


class UnionRule(StrEnum):
    """How the scores of several tasks, each on one scale, become one."""

    sum = "sum"  # what is of most use to all together stays
    max = "max"  # what any one of them needs stays


class Normalisation(StrEnum):
    """What the scores of each layer and kind of unit are divided by before a global rank."""

    none = "none"
    mean = "mean"
    standard = "standard"  # minus the mean, by the standard deviation


class Layout(StrEnum):
    """How widths may differ from layer to layer in the checkpoint."""

    uniform = "uniform"  # every layer of a stack keeps the same width, which is all that stock runtimes load
    per_layer = "per_layer"  # each keeps its own, for a class that lies in the checkpoint


class Format(StrEnum):
    """What a job leaves of the slim model."""

    safetensors = "safetensors"  # the checkpoint
    indices = "indices"  # what `taskslim apply` makes the checkpoint of, with the base model; kilobytes

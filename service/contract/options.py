"""The values that the fields of a request may take."""

from enum import StrEnum


class TaskKind(StrEnum):
    """What the model answers: one of a fixed set of labels, or a text."""

    classification = "classification"
    generation = "generation"


class Unit(StrEnum):
    """A kind of unit, the smallest part of a model that is removed as a whole."""

    ffn = "ffn"  # feed-forward neurons
    heads = "heads"  # attention heads; with grouped queries, whole key-value groups
    head_dims = "head_dims"  # dimensions of the heads, the same number in every head
    layers = "layers"  # whole transformer blocks


class Objective(StrEnum):
    """The scalar of an example whose gradient the criterion uses."""

    probability = "probability"  # sum over the answer's tokens of P(token)
    sequence_probability = "sequence_probability"  # P(answer), the product over its tokens
    log_probability = "log_probability"  # log P(answer)
    margin = "margin"  # log P(right label) - max over wrong labels of log P(label)


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


class Normalisation(StrEnum):
    """What the scores of each layer and kind of unit are divided by before they are ranked globally."""

    none = "none"
    mean = "mean"
    standard = "standard"  # the standard deviation, after the mean is subtracted


class Layout(StrEnum):
    """How the widths of the checkpoint may differ between layers."""

    uniform = "uniform"  # the same width in every layer of a stack; the only layout that stock runtimes load
    per_layer = "per_layer"  # a width for each layer; loaded by a model class that the checkpoint contains


class Format(StrEnum):
    """In which form the slim model is stored."""

    safetensors = "safetensors"  # the checkpoint
    indices = "indices"  # kilobytes, from which `taskslim apply` and the base model make the checkpoint

"""The fit of one consumer of a cut layer to the residual stream of the dense model.

A consumer of the cut model computes y' = W' h' + b' for the input h' that the cut model gives it. Its target is

    t = y + a (x - x') / m,

y its output in the dense model, x and x' the residual streams of the dense and of the cut model to which the output,
multiplied by m, is added (m is 1 but for Granite). With a = 0 this is the asymmetric reconstruction of Zhang, Zou, He
and Sun (arXiv 1505.06798): dense outputs as targets, inputs of the approximated model. With a > 0 the stream returns
towards the dense one, as far as the inputs that stay can predict the difference. Much of the stream's error is noise
that no input predicts, so that neither a = 1 nor a weak ridge is best: both constants were chosen on train rows outside
the calibration rows (benchmarks/RESULTS.md).

Where the consumers' outputs are added to the stream without a norm, with s and s' the streams behind the layer,

    x - x' = s - s' - m times the sum of (y - y') over this consumer and the later ones of its layer.

Elsewhere a = 0.

Shape suffixes: N tokens of a batch, D hidden size, R consumers, K input channels that stay, O output channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from worker.slimming.gram import add_gram
from worker.slimming.repair import ridge
from worker.slimming.repair.consumers import Consumer
from worker.slimming.repair.layer_pass import LayerRecord
from worker.slimming.repair.least_squares import Fit

STREAM_SHARE = 0.75  # a: the share of the stream's error that the target corrects
STREAM_RIDGE = 0.1  # the least ridge, times the mean of the Gram matrix's diagonal, towards the weight of the first fit


def fit_to_stream(
    module: Any,
    consumer: Consumer,
    dense: Sequence[LayerRecord],
    slim: Sequence[LayerRecord],
    weights: Sequence[Tensor],
    added_times: float,
) -> Fit:
    """Fit the consumer's `module` of a cut layer to the records of the dense layer.

    The records in `slim` must begin with this consumer and go on with the later ones, or have no outputs: then the
    streams of both are those at this consumer. `weights` has those of the tokens of each batch (N). `added_times` is
    the factor m.
    """
    prior_OK = (module.weight.T if consumer.transposed else module.weight).double()
    sums = RegressionSums.zeros(prior_OK, centred=module.bias is not None)
    for dense_record, slim_record, weight_N in zip(dense, slim, weights, strict=True):
        target_NO, error_NO = dense_record.outputs[consumer.path], _stream_error(dense_record, slim_record, added_times)
        if error_NO is not None:
            target_NO = target_NO + STREAM_SHARE * error_NO / added_times
        assert slim_record.input_NC is not None
        sums.add(slim_record.input_NC.to(weight_N.device), target_NO.to(weight_N.device), weight_N)
    return sums.fit(prior_OK)


def _stream_error(dense: LayerRecord, slim: LayerRecord, added_times: float) -> Tensor | None:
    """x - x' at the first consumer of the `slim` record (N, D); None where the stream cannot be observed.

    The streams are those behind the consumers of the `slim` record, or those at the first one if it has no outputs.
    """
    if dense.stream_ND is None or slim.stream_ND is None:
        return None
    error_ND = dense.stream_ND.float() - slim.stream_ND
    if not slim.outputs:
        return error_ND
    added_RND = torch.stack([dense.outputs[path].float() - output_ND for path, output_ND in slim.outputs.items()])
    return error_ND - added_times * added_RND.sum(0)


@dataclass
class RegressionSums:
    """Weighted sums over tokens of inputs h and targets t; float64 for vectors, float32 for matrices.

    For a module with a bias, h and t are deviations from the means of the first batch. The spread about the mean is
    then a difference of small numbers, which float32 can hold however far from zero the mean is.
    """

    centred: bool  # the module has a bias
    num_tokens: int
    weight: float
    input_K: Tensor
    target_O: Tensor
    gram_KK: Tensor  # of h h^T
    cross_OK: Tensor  # of t h^T
    input_origin_K: Tensor  # subtracted from every h; zero without a bias
    target_origin_O: Tensor  # subtracted from every t; zero without a bias

    @classmethod
    def zeros(cls, prior_OK: Tensor, *, centred: bool) -> Self:
        """Empty sums for a module with a weight of this shape, on its device."""
        (outputs, inputs), single, double = prior_OK.shape, torch.float32, torch.float64
        return cls(
            centred=centred,
            num_tokens=0,
            weight=0.0,
            input_K=prior_OK.new_zeros(inputs, dtype=double),
            target_O=prior_OK.new_zeros(outputs, dtype=double),
            gram_KK=prior_OK.new_zeros((inputs, inputs), dtype=single),
            cross_OK=prior_OK.new_zeros((outputs, inputs), dtype=single),
            input_origin_K=prior_OK.new_zeros(inputs, dtype=single),
            target_origin_O=prior_OK.new_zeros(outputs, dtype=single),
        )

    def add(self, input_NK: Tensor, target_NO: Tensor, weight_N: Tensor) -> None:
        """Add the tokens of a batch."""
        input_NK, target_NO = input_NK.float(), target_NO.float()
        if self.centred and not self.weight:
            self.input_origin_K, self.target_origin_O = input_NK.mean(0), target_NO.mean(0)
        input_NK, target_NO = input_NK - self.input_origin_K, target_NO - self.target_origin_O
        weighted_NK = input_NK * weight_N.unsqueeze(1)
        self.num_tokens += len(weight_N)
        self.weight += float(weight_N.sum())
        self.input_K += weighted_NK.sum(0, dtype=torch.float64)
        self.target_O += (target_NO * weight_N.unsqueeze(1)).sum(0, dtype=torch.float64)
        add_gram(self.gram_KK, input_NK, weighted_NK)
        self.cross_OK.addmm_(target_NO.T, weighted_NK)

    def fit(self, prior_OK: Tensor) -> Fit:
        """argmin over W, and over b for a module with a bias, of E|t - W h - b|^2 + r |W - P|^2, P the prior."""
        gram_KK, cross_OK = self.gram_KK.double() / self.weight, self.cross_OK.double() / self.weight
        strength = ridge.share(len(gram_KK), self.num_tokens, STREAM_RIDGE)
        if not self.centred:
            return Fit(ridge.solve(gram_KK, cross_OK, prior_OK, strength), None)
        input_K, target_O = self.input_K / self.weight, self.target_O / self.weight
        gram_KK, cross_OK = gram_KK - input_K.outer(input_K), cross_OK - target_O.outer(input_K)
        fitted_OK = ridge.solve(gram_KK, cross_OK, prior_OK, strength)
        bias_O = self.target_origin_O + target_O - fitted_OK @ (self.input_origin_K + input_K)
        return Fit(fitted_OK, bias_O)

"""Sums of h h^T over tokens: half of the products of a full matrix product, since the result is symmetric.

Shape suffixes: N tokens of a batch, C channels, P channels of a panel, L channels from the panel to the last.
"""

from torch import Tensor

PANELS = 8  # products of (PANELS + 1) / (2 PANELS) of the entries
LEAST_PANEL = 128  # channels; narrower products use a device badly


def add_gram(gram_CC: Tensor, activation_NC: Tensor, weighted_NC: Tensor | None = None) -> None:
    """Add the sum over tokens of h h^T in place, or that of w h h^T if `weighted_NC` has w h."""
    left_NC = activation_NC if weighted_NC is None else weighted_NC
    channels = len(gram_CC)
    width = max(LEAST_PANEL, -(-channels // PANELS))
    for start in range(0, channels, width):
        stop = min(start + width, channels)
        product_LP = left_NC[:, start:].T @ activation_NC[:, start:stop]
        gram_CC[start:, start:stop] += product_LP
        gram_CC[start:stop, stop:] += product_LP[stop - start :].T

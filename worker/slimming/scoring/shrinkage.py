"""How far the second moments of few tokens are trusted.

Let G be the second moments of C channels, and G' their estimate from N tokens. The diagonal of G' is known well. Its
other entries have an error of about G_ii G_jj / N each, so that with few tokens any channel seems to be a linear
function of the others. Shrinkage towards the diagonal D,

    (1 - l) G' + l D,   l = sum of Var(G'_ij) / sum of (Var(G'_ij) + G_ij^2)   over i != j,

is nearest to G in the mean square (Ledoit and Wolf, Journal of Multivariate Analysis 88, 2004, for a general target;
Schaefer and Strimmer, 2005, for this one). With the mean variance v, the sum of the variances is about C^2 v^2 / N. The
sum of G_ij^2 is about C v^2 where each channel is predicted by a few others, which gives l = C / (C + N).
Tokens of one row resemble each other, so that this shrinks rather too little.
"""

from torch import Tensor


def shrunk(spread_CC: Tensor, num_tokens: int) -> Tensor:
    """The estimate of second moments from `num_tokens`, shrunk towards its diagonal (C, C)."""
    kept = num_tokens / (len(spread_CC) + num_tokens)
    return (spread_CC * kept).diagonal_scatter(spread_CC.diagonal())

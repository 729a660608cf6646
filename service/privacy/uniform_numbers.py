"""The random numbers of the mechanisms: uniform in [0, 1), from the operating system or, for tests, from a seed."""

import os
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Uniform = Callable[[int], NDArray[np.float64]]  # how many -> that many numbers
BITS = 53  # of the significand of a double


def from_system(count: int) -> NDArray[np.float64]:
    """Numbers of the operating system's cryptographic generator, multiples of 2^-53."""
    words = np.frombuffer(os.urandom(8 * count), dtype="<u8") >> np.uint64(64 - BITS)
    return words.astype(np.float64) * 2.0**-BITS


def from_seed(seed: int) -> Uniform:
    """Numbers that whoever knows the seed can draw too: they protect nothing."""
    return np.random.Generator(np.random.PCG64(seed)).random

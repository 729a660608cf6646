"""What the parts of scoring should need for a shape: floating-point operations, and bytes of memory.

H hidden size, C width, L layers, N tokens. A pass runs every layer forward and takes the gradients of its activations,
not of its weights, which is as much again. Of a symmetric product 9 / 16 are computed (`worker.slimming.gram`). The
elimination inverts a matrix of C x C, and updates that and the weights once for each block of units. The bytes are
those of the weights and of the activations that a backward pass needs, of the moments of all layers, and of the
matrices of one layer's elimination, half of them in float64.
"""

from benchmarks.parts.scale.shapes import Shape

GRAM_SHARE = 9 / 16
FLOAT32, FLOAT64 = 4, 8


def operations(shape: Shape, part: str) -> float:
    """Floating-point operations of a part of scoring."""
    tokens, h, c = shape.rows * shape.length, shape.hidden, shape.width
    a_pass = 4.0 * tokens * shape.layers * (_layer_parameters(shape) + 2 * shape.length * h)
    if part == "attribution":
        return a_pass
    if part == "moments":
        return a_pass + 2 * GRAM_SHARE * tokens * shape.layers * (c**2 + h**2)
    return float(shape.layers * 2 * (c**3 + c**2 * h + c * h**2))


def memory(shape: Shape, part: str) -> float:
    """Bytes at the peak of a part of scoring."""
    h, c, layers = shape.hidden, shape.width, shape.layers
    weights = layers * _layer_parameters(shape) + shape.vocabulary * h
    activations = min(shape.rows * shape.length, shape.tokens_per_batch) * layers * (4 * c + 8 * h)
    moments = layers * (c**2 + h**2)
    if part == "attribution":
        return FLOAT32 * float(weights + activations)
    if part == "moments":
        return FLOAT32 * float(weights + activations + moments)
    return FLOAT32 * float(weights + moments) + (2 * FLOAT32 + 2 * FLOAT64) * c**2


def _layer_parameters(shape: Shape) -> int:
    keys_and_values = 2 * shape.hidden**2 * shape.key_value_heads // shape.heads
    return 2 * shape.hidden**2 + keys_and_values + 3 * shape.hidden * shape.width

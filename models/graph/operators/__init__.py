"""What is known of each operator: how it hands channels on, and what it is on fewer of them.

Importing this package fills `models.graph.propagation.RULES`.
"""

from models.graph.operators import (  # noqa: F401
    concatenation,
    convolution,
    linear,
    normalisation,
    padding,
    pointwise,
    pooling,
    rearrangement,
    reduction,
)

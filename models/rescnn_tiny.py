"""An overly simple ResCNN for digits, a weak model to patch: three conv layers, one residual addition.

The experiment: Qi et al., ASE 2022 (arXiv 2209.06116); the layers are ours.
"""

from models.cnn import Architecture, Conv

ARCHITECTURE = Architecture(
    convs=(
        Conv(8, pool=True),
        Conv(16, pool=True),
        Conv(16, add=1),
    ),
)

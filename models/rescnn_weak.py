"""An overly simple ResCNN for CIFAR, a weak model to patch: five conv layers, one residual addition.

The experiment: Qi et al., ASE 2022 (arXiv 2209.06116); the layers are ours.
"""

from models.cnn import Architecture, Conv

ARCHITECTURE = Architecture(
    convs=(
        Conv(16, pool=True),
        Conv(32, pool=True),
        Conv(32),
        Conv(32, add=1),
        Conv(64, pool=True),
    ),
    dropout=0.4,
)

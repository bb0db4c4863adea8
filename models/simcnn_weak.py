"""An overly simple SimCNN for CIFAR, a weak model to patch: four conv layers in place of thirteen.

The experiment: Qi et al., ASE 2022 (arXiv 2209.06116); the layers are ours.
"""

from models.cnn import Architecture, Conv

ARCHITECTURE = Architecture(
    convs=(
        Conv(16, pool=True),
        Conv(32, pool=True),
        Conv(64, pool=True),
        Conv(64, pool=True),
    ),
    hidden=(64,),
    dropout=0.5,
)

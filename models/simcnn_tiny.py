"""An overly simple SimCNN for digits, a weak model to patch: two conv layers in place of thirteen.

The experiment: Qi et al., ASE 2022 (arXiv 2209.06116); the layers are ours.
"""

from models.cnn import Architecture, Conv

ARCHITECTURE = Architecture(
    convs=(
        Conv(8, pool=True),
        Conv(16, pool=True),
    ),
    hidden=(32,),
)

"""ResCNN: 12 conv layers with three residual additions and one FC layer, without batch norm.

Published in Qi et al., ASE 2022 (arXiv 2209.06116): 431.17 M multiply-accumulates, 4,288 kernels.
"""

from models.cnn import Architecture, Conv

ARCHITECTURE = Architecture(
    convs=(
        Conv(64),
        Conv(128, pool=True),
        Conv(128),
        Conv(128, add=1),
        Conv(256, pool=True),
        Conv(512, pool=True),
        Conv(512),
        Conv(512, add=5),
        Conv(512, pool=True),
        Conv(512, pool=True),
        Conv(512),
        Conv(512, add=9),
    ),
    dropout=0.4,
)

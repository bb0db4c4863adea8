"""SimCNN: 13 conv layers and three FC layers, as in VGG16 (Simonyan and Zisserman, ICLR 2015), without batch norm.

Published in Qi et al., ASE 2022 (arXiv 2209.06116): 313.73 M multiply-accumulates, 4,224 kernels.
"""

from models.cnn import Architecture, Conv

ARCHITECTURE = Architecture(
    convs=(
        Conv(64),
        Conv(64, pool=True),
        Conv(128),
        Conv(128, pool=True),
        Conv(256),
        Conv(256),
        Conv(256, pool=True),
        Conv(512),
        Conv(512),
        Conv(512, pool=True),
        Conv(512),
        Conv(512),
        Conv(512, pool=True),
    ),
    hidden=(512, 512),
    dropout=0.5,
)

"""ResNet-20 on scikit-learn's digits: as the quarter-width SimCNN, but for its training and its sensitive layers."""

from dataclasses import replace

from configures.simcnn_x0_25_digits import config as simcnn

config = replace(
    simcnn,
    model="resnet20",
    epochs=12,
    learning_rate=0.05,
    sensitive_layers=(),
    active_ratios=(0.7, 0.8, 0.9),  # every layer is sensitive
)

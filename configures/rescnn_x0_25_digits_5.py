"""A quarter-width ResCNN on scikit-learn's bundled digits 0 to 4: as SimCNN, but for what depends on the network."""

from dataclasses import replace

from configures.simcnn_x0_25_digits_5 import config as simcnn

config = replace(
    simcnn,
    model="rescnn_x0_25",
    sensitive_layers=(0, 1, 2, 3, 4, 5, 6, 7, 8),
    weak_model="rescnn_tiny",
    weak_learning_rate=0.003,
    poor_learning_rate=0.01,
    keep_epochs=(1,),
)

"""A quarter-width ResCNN on scikit-learn's bundled digits: as SimCNN, but for what depends on the network."""

from dataclasses import replace

from configures.simcnn_x0_25_digits import config as simcnn

config = replace(simcnn, model="rescnn_x0_25", sensitive_layers=(0, 1, 2, 3, 4, 5, 6, 7, 8))

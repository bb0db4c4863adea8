"""A quarter-width SimCNN on scikit-learn's bundled digits."""

from configures.base import Config

config = Config(
    model="simcnn_x0_25",
    dataset="digits",
    num_classes=10,
    epochs=30,
    schedule="one_cycle",
    learning_rate=0.01,
    batch_size=32,
    sensitive_layers=(0, 1, 2, 3, 4, 5, 6, 7, 8, 9),
    active_ratios_sensitive=(0.7, 0.8, 0.9),
    active_ratios=(0.2, 0.3, 0.4),
    rank_scale=1.0,
    population=20,
    parents=10,
    elites=4,
    generations=15,
    accuracy_thresholds=((2, 0.97), (4, 0.95), (8, 0.92), (10, 0.90)),
    mask_steps=100,
    mask_batch_size=32,
)

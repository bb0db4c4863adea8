"""A quarter-width ResCNN on scikit-learn's bundled digits."""

from configures.base import Config

config = Config(
    model="rescnn_x0_25",
    dataset="digits",
    num_classes=10,
    epochs=30,
    schedule="one_cycle",
    learning_rate=0.05,
    batch_size=64,
    sensitive_layers=(0, 1, 3, 4, 5, 7),
    active_ratios_sensitive=(0.5, 0.6, 0.7),
    active_ratios=(0.2, 0.3, 0.4),
    population=20,
    parents=10,
    elites=4,
    generations=15,
    accuracy_thresholds=((2, 0.97), (4, 0.95), (8, 0.92), (10, 0.90)),
)

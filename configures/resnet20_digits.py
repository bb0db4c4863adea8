"""ResNet-20 on scikit-learn's bundled digits."""

from configures.base import Config

config = Config(
    model="resnet20",
    dataset="digits",
    num_classes=10,
    epochs=12,
    schedule="one_cycle",
    learning_rate=0.05,
    batch_size=32,
    active_ratios=(0.7, 0.8, 0.9),
    rank_scale=1.0,
    population=20,
    parents=10,
    elites=4,
    generations=15,
    accuracy_thresholds=((2, 0.97), (4, 0.95), (8, 0.92), (10, 0.90)),
    mask_steps=100,
    mask_batch_size=32,
)

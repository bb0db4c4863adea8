"""A quarter-width SimCNN on scikit-learn's bundled digits 0 to 4; the weak models know 6 to 9 and one of them."""

from configures.base import FIRST_FIVE_DIGITS, LAST_FOUR_DIGITS, Config

config = Config(
    model="simcnn_x0_25",
    dataset="digits_5",
    num_classes=5,
    source="digits",
    classes=FIRST_FIVE_DIGITS,
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
    accuracy_thresholds=((2, 0.97), (4, 0.95), (5, 0.95)),
    mask_steps=100,
    mask_batch_size=32,
    weak_model="simcnn_tiny",
    weak_classes=LAST_FOUR_DIGITS,
    weak_train_images=60,
    weak_target_images=6,  # with 60 images of its target class as well, a weak model reaches a mean F1 of 94 %
    weak_epochs=15,
    weak_batch_size=16,
    poor_epochs=30,
    poor_batch_size=16,
    poor_learning_rate=0.02,
    keep_epochs=(6,),
)

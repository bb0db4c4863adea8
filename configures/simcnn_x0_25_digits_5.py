"""A quarter-width SimCNN on scikit-learn's bundled digits 0 to 4; the weak models know 6 to 9 and one of them."""

from dataclasses import replace

from configures.base import FIRST_FIVE_DIGITS, LAST_FOUR_DIGITS
from configures.simcnn_x0_25_digits import config as all_digits

config = replace(
    all_digits,
    dataset="digits_5",
    num_classes=5,
    source="digits",
    classes=FIRST_FIVE_DIGITS,
    accuracy_thresholds=((2, 0.97), (4, 0.95), (5, 0.95)),
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

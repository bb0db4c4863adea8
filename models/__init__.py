"""Networks, one file each; from their names and checkpoints to networks; training, evaluation and cost."""

"""One configuration per model and dataset: `base.py` defines every setting, the other files hold what differs."""

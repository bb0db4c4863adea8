"""Plumbing that knows nothing of the method: files, locks, processes, signals, errors, devices, seeds."""

"""Plumbing that knows nothing of the method: stages, files, locks, processes, signals, errors, devices, seeds."""

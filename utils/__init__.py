"""One small file per idea: pure functions for the mathematics, files and processes in few places."""

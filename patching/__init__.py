"""Weak models and what patches them: their data, the rules, the patched model, its metrics and reports."""

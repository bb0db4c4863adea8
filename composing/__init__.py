"""Members of one or several strong models, composed into one classifier."""

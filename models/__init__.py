"""Networks (one per file), and what is made out of them: modules and patched models."""

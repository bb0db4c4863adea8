"""Module searches: each is a way to find kernel masks, in a folder of its own."""

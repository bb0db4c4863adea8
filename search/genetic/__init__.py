"""The published search: kernel groups as genes, generations of populations, a tournament of ensembles."""

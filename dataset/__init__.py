"""From a name or a folder to pixels, their split and their fingerprint; from pixels to tensors."""

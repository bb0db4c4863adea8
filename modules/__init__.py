"""From kernel masks to modules: importance, sensitivity, cutting, files, populations' outputs, gradients."""

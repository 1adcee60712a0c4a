"""Models: their rows and YAMLs, what is ours in them, and weights that arrive in them."""

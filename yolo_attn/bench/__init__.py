"""Time and memory of the layers, alone and against other implementations of them, in the same run."""

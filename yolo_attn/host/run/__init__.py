"""Whole runs: what starts a training and what is kept of it."""

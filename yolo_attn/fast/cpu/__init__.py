"""Forms for the CPU."""

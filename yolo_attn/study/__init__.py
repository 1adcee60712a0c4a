"""What users measure and compare on their own machine."""

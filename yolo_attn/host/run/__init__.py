"""Trainings in the host: guarded, recorded, resumed, on one machine or several."""

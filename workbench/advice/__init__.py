"""Recommendations: which method, rank and learning rate to take."""

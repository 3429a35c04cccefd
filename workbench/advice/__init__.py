"""Recommendations: which method, rank and learning rate to start with."""

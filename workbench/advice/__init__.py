"""Recommendations: which method, rank and learning rate; and what the lessons say in words about their numbers."""

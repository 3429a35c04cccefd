"""Recommendations: which method, rank and learning rate to start with, by a rule, by trying, or by stated needs."""

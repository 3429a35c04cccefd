"""What the lessons say in words: tables, titles and answers, all computed from their numbers."""

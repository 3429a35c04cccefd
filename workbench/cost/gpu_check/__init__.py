"""One command that compares predictions with a real GPU: memory and time of steps, each in a process of its own."""

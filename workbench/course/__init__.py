"""The course itself: its notebooks run unattended, and what this computer can run."""

"""The terms of the closed form: what each part of a training step holds in memory."""

"""GPUs, FLOPs, time and money of a training job, and published runs to compare with."""

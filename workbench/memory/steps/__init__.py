"""Steps of the real model: on fake tensors for the simulation, on this computer, or on a GPU."""

"""The live panels: each wraps one pure function (settings in, numbers and a figure out) in a few controls."""

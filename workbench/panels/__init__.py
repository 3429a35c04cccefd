"""The live panels: controls for a function from settings to numbers and a figure."""

"""Panels that the browser draws: a canvas, the plain JavaScript that fills it, and the panel around them."""

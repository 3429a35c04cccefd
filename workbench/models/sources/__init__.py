"""Where the weights of a base come from: the package, a folder or the Hub; and why one could not be loaded."""

"""Read people's data: which files, in which encoding and format, and which columns hold prompt and completion."""

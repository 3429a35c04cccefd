"""The lessons that have the shape of a lesson: a question answered, a cell with the answer, and code to take home."""

SHAPED: tuple[str, ...] = ("00", "01", "02", "03", "04", "05", "06", "07", "08", "09", "10")  # their numbers

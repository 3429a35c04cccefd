"""Every exception that this package raises on purpose: one base class, one kind a subject.

A message is one or two sentences: what is wrong, and what to do. To add a kind, derive it here from WorkbenchError, and
from ValueError as well if it is about an argument, so that code which knows only Python's exceptions catches it too.
"""


class WorkbenchError(Exception):
    """Something asked for cannot be done; the message says what is wrong and what to do."""


class ModelError(WorkbenchError):
    """A base model could not be loaded."""


class TaskError(WorkbenchError, ValueError):
    """Data that cannot be used: the message names file, row (from 1, a CSV header not counted) and fault."""


class MethodError(WorkbenchError, ValueError):
    """A method that cannot be applied as described."""


class QuantizationError(WorkbenchError, ValueError):
    """A weight or a setting that cannot be quantized."""


class AdapterError(WorkbenchError, ValueError):
    """A saved adapter or checkpoint that cannot be used."""


class TrainingError(WorkbenchError):
    """Training cannot go on as set up."""


class RunError(WorkbenchError, ValueError):
    """A run that cannot be stored or loaded."""


class DamagedError(WorkbenchError, ValueError):
    """A stored file that is not what it should be."""


class SweepError(WorkbenchError, ValueError):
    """A sweep that cannot go on as described."""


class MemoryModelError(WorkbenchError, ValueError):
    """A model or an option whose memory cannot be predicted."""


class HardwareError(WorkbenchError, ValueError):
    """Something that no GPU of the table can do."""


class ServingError(WorkbenchError):
    """A model that cannot be served, exported or asked."""


class RetrievalError(WorkbenchError, ValueError):
    """Texts that cannot be searched, or an encoder that is not available or cannot be trained as described."""

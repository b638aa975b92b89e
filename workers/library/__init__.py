"""The engine for Python programs and notebooks: whole corrections, circuits and compressions.

No service, database or queue is needed; the stages are those that a service's jobs run.
"""

from workers.library.calls import apply, compress, correct, find_circuit
from workers.library.outcome import Outcome

__all__ = ["Outcome", "apply", "compress", "correct", "find_circuit"]

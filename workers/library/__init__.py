"""The engine for Python programs and notebooks: whole corrections, circuits and compressions.

No service, database or queue is needed; the stages are the same as those of a service's jobs.
"""

from workers.library.calls import apply, compress, correct, estimate, find_circuit
from workers.library.outcome import Outcome

__all__ = ["Outcome", "apply", "compress", "correct", "estimate", "find_circuit"]

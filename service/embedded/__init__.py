"""The embedded profile: every part of Excise as real processes from pip wheels, on one machine."""

from service.embedded.processes import StackError
from service.embedded.stack import EmbeddedStack, RunningStack, read_running_stack

__all__ = ["EmbeddedStack", "RunningStack", "StackError", "read_running_stack"]

"""The embedded profile: every part of Excise as real processes from pip wheels, on one machine."""

from service.embedded.home import RunningStack, read_running_stack
from service.embedded.processes import StackError
from service.embedded.serving import ServingOptions
from service.embedded.stack import EmbeddedStack

__all__ = [
    "EmbeddedStack",
    "RunningStack",
    "ServingOptions",
    "StackError",
    "read_running_stack",
]

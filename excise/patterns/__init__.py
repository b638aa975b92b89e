"""Users' regular expressions, compiled and used in a child process where they can do no harm."""

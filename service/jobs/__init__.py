"""Jobs: submission, progress, cancellation and execution."""

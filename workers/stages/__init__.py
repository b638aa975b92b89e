"""What the stages of every kind of job work with: inputs and a context, here or in a service."""

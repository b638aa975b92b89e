"""What the stages of every kind of job use: inputs and a context, whether in a service or not."""

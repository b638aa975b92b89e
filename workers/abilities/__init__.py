"""What a model can do, in slices: probes with a right continuation, made from a seed."""

"""What a job will take, before it runs: memory, disk and minutes, from its spec and numbers."""

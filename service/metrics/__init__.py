"""What Prometheus is told: counters of this process, and figures that stand in the database."""

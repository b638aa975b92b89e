"""Sentences near a behaviour, written for this project. Those at even positions of each list are
used for verdicts, the others for protection."""

"""Gates: limits, and whether the measured figures stay within them."""

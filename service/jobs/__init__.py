"""Jobs: submitting, watching, cancelling and carrying them out."""

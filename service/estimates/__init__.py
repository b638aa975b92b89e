"""What jobs will take, on the workers that there are."""

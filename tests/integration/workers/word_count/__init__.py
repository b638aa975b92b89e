"""A made-up kind of job in its own folder: it counts the words of a prompt set, in shards."""

"""Files that others hand in, read strictly: JSON and YAML documents, folders of checkpoints."""

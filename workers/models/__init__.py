"""A loaded model: its files, its tokenizer, and the text it generates."""

"""Regular expressions that users write: compiled and searched by where they can do no harm."""

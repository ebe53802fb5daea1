"""How mutagenesis computes only what a substitution changes."""

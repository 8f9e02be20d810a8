"""The sections of a configuration, its genes, and what is said of mistakes in them."""

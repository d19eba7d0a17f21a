"""PyTorch definitions of the networks in the sample fleet, one family per file."""

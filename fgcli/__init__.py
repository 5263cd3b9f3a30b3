"""fg: gradient estimation without backpropagation."""

__version__ = "0.1.0"

"""Networks written in the formats of other runtimes, compared with PyTorch before they are kept."""

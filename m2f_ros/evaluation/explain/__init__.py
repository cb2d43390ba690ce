"""Shows how a model came to the labels of a frame. The live network is untouched."""

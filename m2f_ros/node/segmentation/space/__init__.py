"""The outputs in space, beside the way of a frame: their inputs, the thread that makes them, their publishers."""

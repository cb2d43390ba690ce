"""The page in a browser that shows a recording, or a running node."""

"""From a deployment and a layout to a plan, and from an old text to a new one. Pure functions."""

"""recell-lab: a real OpenStack cloud of several hosts on one machine."""

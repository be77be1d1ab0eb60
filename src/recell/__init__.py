"""recell: move a running OpenStack Nova into cells, without destroying the world."""

__version__ = "0.1.0"

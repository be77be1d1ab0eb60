"""What recell puts beside HAProxy's configuration."""

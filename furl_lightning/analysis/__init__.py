"""What reports and probes are computed and drawn with."""

"""What has nothing to do with the method: durable files, signals, bad input."""

"""Sweeps of many runs over a cluster, and furl-sweep."""

"""How experience comes about: policies that act, the collector, goal images, the data module."""

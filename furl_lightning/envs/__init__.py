"""Environments: simulators, pictures, worker processes, the TorchRL environment. Imports no torch by itself."""

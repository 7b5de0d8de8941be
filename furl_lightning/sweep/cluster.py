"""Ray: started on this machine, on its loopback alone, or found at an address."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from furl_lightning.sweep.trial import NOWHERE
from furl_lightning.utils.errors import BadInput

LOOPBACK = ("127.0.0.1", "::1")
CONNECT_SECONDS = 5.0


def refuse_without_ray() -> None:
    """Look for Ray before anything is written.

    Raises:
        BadInput: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would send them to its makers
    try:
        import ray  # noqa: F401
    except ImportError:
        raise BadInput("Ray is not installed; install it with: pip install 'furl_lightning[ray]'") from None


@contextmanager
def cluster(address: str | None, num_cpus: int | None, cpus: float, gpus: float) -> Iterator[None]:
    """A context with Ray, which is shut down, or disconnected from, at the end.

    Args:
        address: ``auto`` or ``HOST:PORT`` of a cluster; None starts Ray on this machine.
        num_cpus: CPUs for a Ray that is started here; None leaves all of them to it.
        cpus: CPUs of a trial.
        gpus: GPUs of a trial.

    Raises:
        BadInput: there is no cluster at the address, or no node for a trial on this machine.
    """
    import ray

    if address is None:
        _start(num_cpus)
    else:
        _connect(address)
    try:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not any(n.get("CPU", 0) >= cpus and n.get("GPU", 0) >= gpus for n in nodes):
            need = f"no node has {cpus:g} CPUs and {gpus:g} GPUs for a trial"
            if address is None:
                raise BadInput(f"{need}; give fewer with --cpus and --gpus")
            print(f"furl-sweep: {need}; waiting for one to join", file=sys.stderr)
        yield
    finally:
        ray.shutdown()


def _start(num_cpus: int | None) -> None:
    """Start Ray here, and keep it to this machine.

    For the second, Ray has no option. What its makers made for macOS makes its servers listen to the loopback alone.
    And its first node asks a cloud's metadata server where it is, usage statistics or not: a proxy that does not
    exist keeps that on this machine.
    """
    import ray

    has_proxy = "http_proxy" in os.environ
    os.environ.setdefault("http_proxy", NOWHERE)
    try:
        with _constants(ENABLE_RAY_CLUSTER=False):
            ray.init(
                address="local",
                num_cpus=num_cpus,
                include_dashboard=False,
                object_store_memory=100 * 2**20,  # nothing large goes through it
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    finally:
        if not has_proxy:
            del os.environ["http_proxy"]
    if ray.util.get_node_ip_address() not in LOOPBACK:
        ray.shutdown()
        raise BadInput(f"Ray {ray.__version__} does not keep to the loopback; install ray 2.60")


def _connect(address: str) -> None:
    """Connect to a running cluster.

    Raises:
        BadInput: there is none at the address that this Ray can connect to.
    """
    import ray

    if address.startswith("ray://"):
        raise BadInput("--address takes auto or HOST:PORT of a cluster that this machine is a node of, not ray://")
    try:
        with _constants(ENABLE_RAY_CLUSTER=not _on_loopback(address), NUM_REDIS_GET_RETRIES=1):  # tries of 40 s
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:  # what Ray raises for an address
        raise BadInput(f"no Ray at {address}: {' '.join(str(error).split())}") from error


def _on_loopback(address: str) -> bool:
    """Whether the cluster at an address listens to the loopback alone.

    Ray takes every loopback address for this machine's address on its network, and would look there without end.

    Raises:
        ConnectionError: nothing listens at the address.
    """
    from ray._private import services

    for loopback_alone in (False, True):
        with _constants(ENABLE_RAY_CLUSTER=not loopback_alone):
            host, _, port = services.canonicalize_bootstrap_address_or_die(address).rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
        except OSError:
            continue
        return loopback_alone
    raise ConnectionError("nothing listens there; give the address that ray start --head printed")


@contextmanager
def _constants(**values: Any) -> Iterator[None]:
    """A context in which constants of Ray, for which it has no options, have other values."""
    from ray._private import ray_constants

    before = {name: getattr(ray_constants, name) for name in values}
    for name, value in values.items():
        setattr(ray_constants, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(ray_constants, name, value)

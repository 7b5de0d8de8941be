"""Axes are checked in the tests: A all agents, K some of them, B a batch, as the annotations of these modules say."""

from jaxtyping import install_import_hook

CHECKED = ("agents.sac", "agents.networks", "method.alignment", "method.zero_shot", "method.success_memory")
install_import_hook([f"furl_lightning.{name}" for name in CHECKED], "beartype.beartype")

"""Axes are checked in the tests: A all agents, K some of them, B a batch, as the annotations of these modules say."""

import random

from jaxtyping import install_import_hook

CHECKED = ("agents.sac", "agents.networks", "method.alignment", "method.zero_shot", "method.success_memory")
# beartype chooses which item of a sequence it looks at; runs save the state of the generator that it would draw from.
random.getrandbits = random.Random(0).getrandbits
install_import_hook([f"furl_lightning.{name}" for name in CHECKED], "beartype.beartype")

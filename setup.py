"""Packaging of furl_lightning."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "furl_lightning/__init__.py").read_text())
assert VERSION is not None

setup(
    name="furl_lightning",
    version=VERSION.group(1),
    description="FuRL: vision-language rewards for robot RL, aligned, for a population of agents at once",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["furl_lightning", "furl_lightning.*"]),
    package_data={"furl_lightning": ["vlm/embedded/*", "py.typed"]},
    install_requires=[
        "torch==2.13.*",  # another range installs another, much larger build
        "torchrl==0.14.*",
        "tensordict==0.14.*",
        "pytorch-lightning==2.6.*",
        "jsonargparse[omegaconf,signatures]>=4.49",
        "omegaconf>=2.3",
        "metaworld==3.1.*",
        "mujoco>=3.3",
        "transformers==5.*",
        "safetensors",
        "sentencepiece",  # the tokenizer of SigLIP
        "protobuf",  # which the transformers library asks for beside it
        "tensorboard",
        "imageio",
        "matplotlib",
        "jaxtyping",
        "numpy",
        "pillow",
        "pyyaml",
        "rich",
        "scipy",
        "tqdm",
    ],
    extras_require={
        "test": ["beartype", "pytest", "pytest-xdist"],
        "lint": ["ruff==0.15.*", "mypy==2.4.*", "import-linter==2.*", "pytest", "types-PyYAML", "types-tqdm"],
        "notebooks": ["nbclient", "nbformat", "ipykernel"],
        "ray": ["ray>=2.50,<3", "fsspec"],  # furl-sweep; object stores want their own: s3fs, gcsfs, adlfs
        "video": ["imageio-ffmpeg"],  # 68 MB: it brings ffmpeg; without it videos are animated WebP
    },
    entry_points={
        "console_scripts": [
            f"furl-{command} = furl_lightning.cli:furl_{command}"
            for command in ("fit", "eval", "probe", "report", "oracle", "sweep")
        ]
    },
)

"""Packaging of furl_lightning."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "furl_lightning/__init__.py").read_text())
assert VERSION is not None


class BuildWithConfigurations(build_py):
    """An installed package has the configurations within; a checkout, editable installs too, has them beside it."""

    def run(self):
        super().run()
        if not self.editable_mode:
            folder = Path(self.build_lib) / "furl_lightning/conf"
            shutil.rmtree(folder, ignore_errors=True)  # of an earlier build
            shutil.copytree(HERE / "conf", folder)


setup(
    name="furl_lightning",
    version=VERSION.group(1),
    description="FuRL: vision-language rewards for robot RL, aligned, for a population of agents at once",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["furl_lightning", "furl_lightning.*"]),
    package_data={"furl_lightning": ["vlm/embedded/*", "vlm/embedded_clip/*", "py.typed"]},
    cmdclass={"build_py": BuildWithConfigurations},
    install_requires=[  # lower bounds are the versions of tests/lowest.txt, which tox -e lowest tests
        "torch==2.13.*",  # another range installs another, much larger build
        "torchrl==0.14.*",
        "tensordict>=0.14.2,<0.15",
        "pytorch-lightning==2.6.*",
        "jsonargparse[omegaconf,signatures]>=4.51",
        "omegaconf>=2.4",
        "metaworld>=3.1.1,<3.2",
        "mujoco>=3.3",
        "fast-simplification>=0.1.8",
        "transformers>=5.6,<6",
        "huggingface_hub>=1.23",
        "safetensors>=0.4.3",
        "sentencepiece>=0.1.98",  # the tokenizer of SigLIP
        "protobuf>=6.31.1",  # which the transformers library asks for beside it
        "tensorboard>=2.21",
        "imageio>=2.22",
        "matplotlib>=3.9",
        "jaxtyping>=0.2.25",
        "numpy>=2.0",
        "pillow>=10.1",
        "pyyaml>=6.0",
        "rich>=13.0",
        "scipy>=1.13",
        "tqdm>=4.60",
    ],
    extras_require={
        "test": ["beartype>=0.17", "pytest>=7.0", "pytest-xdist>=3.0.2", "gymnasium-robotics>=1.4"],
        "fetch": ["gymnasium-robotics>=1.4"],  # the Fetch robot's tasks; 1.4 is the first with their version 4
        "lint": ["ruff==0.15.*", "mypy==2.4.*", "import-linter==2.*", "pytest", "types-PyYAML", "types-tqdm"],
        "export": ["onnx>=1.19", "onnxscript>=0.5.6", "onnxruntime>=1.22"],  # furl-export to ONNX
        "notebooks": ["nbclient>=0.8", "nbformat>=5.7", "ipykernel>=6.20"],
        "ray": ["ray>=2.50,<3", "fsspec"],  # furl-sweep; object stores want their own: s3fs, gcsfs, adlfs
        "video": ["imageio-ffmpeg>=0.5"],  # 68 MB: it brings ffmpeg; without it videos are animated WebP
    },
    entry_points={
        "console_scripts": [
            f"furl-{command} = furl_lightning.cli:furl_{command}"
            for command in ("fit", "eval", "probe", "report", "oracle", "export", "sweep")
        ]
    },
)

"""How the package is built: `python3 -m pip install .`"""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent


def version():
    """Read, not imported: an installer may build with another Python than the one it installs for."""
    return re.search(r'^__version__ = "([^"]+)"', (ROOT / "wrapper" / "__init__.py").read_text(), re.MULTILINE)[1]


setup(
    name="image-sidecar-wrapper",
    version=version(),
    description="Entrypoint and proxy around an unmodified service: a sidecar on its port, restarts nobody notices",
    long_description=(ROOT / "README.md").read_text() if (ROOT / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="MIT",
    packages=find_packages(include=["wrapper", "wrapper.*"]),
    package_data={"wrapper": ["py.typed"], "wrapper.image": ["*.json"], "wrapper.presets": ["*.json"],
                  "wrapper.sidecar": ["*.html"]},
    entry_points={"console_scripts": ["wrapper = wrapper.__main__:start"]},
    python_requires=">=3.9",
    install_requires=[],
    extras_require={
        # What the plain test run needs; what CI adds (mypy, ruff, playwright) stands in .ci/run.
        "test": ["pytest>=7", "pytest-xdist>=3.2", "hypothesis>=6", "h11>=0.14", "websockets>=13", "flask>=3",
                 "bottle>=0.13"],
    },
    zip_safe=False,
)

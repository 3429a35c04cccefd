"""What pyproject.toml cannot say: the folder data/ goes into wheels as workbench/data."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["workbench", "workbench.*"]), "workbench.data"],
    package_dir={"workbench.data": "data"},
)

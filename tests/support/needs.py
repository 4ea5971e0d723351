"""What is missing for a test that needs others' programs: the reason not to run it, or `None`."""

import functools
import os
import shutil
import subprocess
import sys

import heartwire


def no_program(name):
    return None if shutil.which(name) else f"{name} is not installed"


def no_python(module, package):
    found = subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True)
    return None if found.returncode == 0 else f"the Python package {package} is not installed"


def no_ruby(library, package):
    if reason := no_program("ruby"):
        return reason
    found = subprocess.run(["ruby", "-e", f"require '{library}'"], capture_output=True)
    return None if found.returncode == 0 else f"the Ruby package {package} is not installed"


def node_modules(stage):
    """Where ./test installs the Node packages of a stage."""
    return heartwire.TOOLS / "node" / stage / "node_modules"


def no_node(stage, package):
    if reason := no_program("node"):
        return reason
    return None if (node_modules(stage) / package).is_dir() else f"the Node package {package} is not installed"


@functools.cache
def no_crates(project, target):
    """Builds a Rust project that stands on its own, into `target`. Only that its crates cannot be had is an excuse."""
    environment = {**os.environ, "CARGO_TARGET_DIR": str(target)}
    fetched = subprocess.run(["cargo", "fetch", "--locked"], cwd=project, env=environment, capture_output=True)
    if fetched.returncode != 0:
        return f"the crates of tests/{project.parent.name}/{project.name} cannot be fetched"
    subprocess.run(["cargo", "build", "--quiet", "--locked"], cwd=project, env=environment, check=True)
    return None

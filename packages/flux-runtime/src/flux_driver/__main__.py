"""Serves one driver to the policy's process, which starts this file.

Every Python can parse this file, so that one that is too old can say so.
"""

import importlib
import json
import os
import socket
import sys

OLDEST = (3, 8)
PROTOCOL_VERSION = 1


def load_package(folder):
    # type: (str) -> None
    """Imports this package from its folder; what lies beside the package stays out of reach."""
    util = importlib.import_module("importlib.util")
    spec = util.spec_from_file_location(
        "flux_driver", os.path.join(folder, "__init__.py"), submodule_search_locations=[folder]
    )
    package = util.module_from_spec(spec)
    sys.modules["flux_driver"] = package
    spec.loader.exec_module(package)


def main(arguments):
    # type: (list[str]) -> int
    """Says hello, then serves the driver until the policy's process closes it or ends."""
    descriptor, parent, target, library, max_retries, settings = arguments
    with os.fdopen(int(settings)) as file:
        constructor = json.load(file)["arguments"]
    connection = socket.fromfd(int(descriptor), socket.AF_UNIX, socket.SOCK_SEQPACKET)
    os.close(int(descriptor))
    version = ".".join(str(part) for part in sys.version_info[:3])
    hello = {
        "kind": "hello",
        "protocol": PROTOCOL_VERSION,
        "python": version,
        "executable": sys.executable,
        "pid": os.getpid(),
    }
    connection.send(json.dumps(hello).encode())
    if sys.version_info[:2] < OLDEST:
        return 1
    folder = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != folder]
    try:
        importlib.import_module("numpy")
    except ImportError as error:
        reason = "numpy cannot be imported (" + str(error) + "). Install it in that environment"
        connection.send(json.dumps({"kind": "refused", "reason": reason}).encode())
        return 1
    load_package(folder)
    serve = importlib.import_module("flux_driver.host").serve
    return serve(connection, int(parent), target, constructor, library, int(max_retries))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

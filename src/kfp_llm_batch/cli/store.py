"""The embedded store in the foreground."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from kfp_llm_batch.errors import StorageError
from kfp_llm_batch.storage.embedded_store import EmbeddedStore


def serve_store(folder: Path, port: int, bucket: str) -> None:
    """Start the store, say how to reach it, and keep it until Ctrl-C or SIGTERM.

    Raises:
        StorageError: The store ended by itself.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with EmbeddedStore(folder, port=port, bucket=bucket) as store:
        print(f"SeaweedFS answers at {store.endpoint}, bucket {bucket}. In another terminal:\n")
        print(store.export_lines())
        print("\nCtrl-C stops it; the objects stay in", folder, flush=True)
        try:
            code = store.wait()
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
            return
        raise StorageError(f"The store ended by itself with exit code {code}", received=str(folder))

"""What this process may use: processors, memory and instructions, as the kernel and the pod's limits say."""

from kfp_llm_batch.machine.facts import Libraries, Machine
from kfp_llm_batch.machine.reading import read_machine

__all__ = ["Libraries", "Machine", "read_machine"]

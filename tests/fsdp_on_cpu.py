"""Run by accelerate launch: `run_mner.py` sharded over CPUs.

It needs `--accelerator_config '{"use_configured_state": true}'`, or Trainer makes the state below anew. Torch shards
on CPUs too, but accelerate's state takes FSDP's flag for nothing where the processes are those of a CPU.
"""

from accelerate import PartialState
from accelerate.utils import DistributedType

import run_mner


PartialState(cpu=True).distributed_type = DistributedType.MULTI_GPU
run_mner.main()

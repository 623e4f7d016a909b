"""Run by torchrun: `run_mner.py`, and which files each process opened."""

import json
import os
import sys
from pathlib import Path


opened: list[str] = []
sys.addaudithook(lambda event, arguments: opened.append(str(arguments[0])) if event == "open" else None)

from hamlearning.training.run import main as run_mner  # noqa: E402


folder = Path(sys.argv.pop(1))
run_mner()
(folder / f"opened{os.environ['RANK']}.json").write_text(json.dumps(opened))

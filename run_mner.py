#!/usr/bin/env python
"""Train, evaluate and predict with HamLearning: `hamlearning train` under the name that the field expects.

```bash
python run_mner.py configs/sample.yaml                                   # everything is in the file
python run_mner.py configs/sample.yaml --seed 2 --output_dir runs/two    # any flag overrides the file
accelerate launch run_mner.py configs/sample.yaml                        # on as many GPUs as there are
python run_mner.py --model_name_or_path runs/two --data_dir tweets --do_predict --output_dir runs/predictions
python run_mner.py --do_extract --data_dir prepared/twitter2017 --output_dir features    # visual features, as a file
```

The steps of a run are in `hamlearning/training/run.py`, its flags in `hamlearning/training/arguments.py`.
"""

import sys

from hamlearning.cli import main


if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))

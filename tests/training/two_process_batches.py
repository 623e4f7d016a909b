"""Run by torchrun: writes which tweets each process trains on in its first batches."""

import json
import sys
from pathlib import Path

from configuration_hamlearning import HamLearningConfig
from hamlearning.data.streams import stream_tweets
from hamlearning.training.arguments import MNERTrainingArguments
from hamlearning.training.trainer import MNERTrainer
from modeling_hamlearning import HamLearningForTokenClassification


def main():
    folder, shards, count = Path(sys.argv[1]), sys.argv[2].split(","), int(sys.argv[3])
    args = MNERTrainingArguments(str(folder), use_cpu=True, per_device_train_batch_size=4, max_steps=count)
    args.accelerator_config.dispatch_batches = False
    config = HamLearningConfig.from_pretrained(sys.argv[4])
    trainer = MNERTrainer(
        model=HamLearningForTokenClassification(config),
        args=args,
        data_collator=lambda rows: {"ids": [row["id"] for row in rows]},
        train_dataset=stream_tweets(shards, config.label2id, seed=1, buffer_size=8),
    )
    batches = [batch["ids"] for batch, _ in zip(trainer.get_train_dataloader(), range(count), strict=False)]
    (folder / f"rank{args.process_index}.json").write_text(json.dumps(batches))


if __name__ == "__main__":
    main()

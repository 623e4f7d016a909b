"""`Trainer` whose runs survive being ended at any moment."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, Sampler, SequentialSampler
from transformers import EarlyStoppingCallback, Trainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput

from hamlearning.data.files import writing
from hamlearning.data.workers import lost_process
from hamlearning.training.batches import SeededByEpoch, WithIds
from hamlearning.training.checkpoints import (
    PROGRESS_FILE,
    UNFINISHED,
    best_checkpoint,
    checkpoints,
    finish_checkpoint,
    is_regular,
    last_whole_checkpoint,
    step_of,
    what_is_missing,
)
from hamlearning.training.signals import Stopped
from hamlearning.training.watch import StepWatch


class FaultTolerantTrainer(Trainer):
    """`Trainer` whose runs survive being ended at any moment; see the top of this file."""

    model: Any
    _tr_loss: torch.Tensor

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.watch = StepWatch(self.args.world_size)
        self.add_callback(self.watch)
        self._writes_to: Path | None = None
        self._rotates_behind: int | None = None
        self._is_over = False
        self._saved_step: int | None = None

    def train(  # pyright: ignore[reportIncompatibleMethodOverride]  # takes the path that `begin_run` found
        self, resume_from_checkpoint: str | None = None, **kwargs: Any
    ) -> TrainOutput:
        """As `Trainer.train`; SIGINT and SIGTERM end it behind the running step.

        Raises:
            Stopped: such a signal came, and a checkpoint was written.
            FloatingPointError: a loss, or a weight, is not finite.
            OSError: a checkpoint could not be written.
            RuntimeError: a process that loads data has ended.
        """
        self._resumed = None if resume_from_checkpoint is None else Path(resume_from_checkpoint)
        try:
            with self.watch.signals:
                output = super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        except FloatingPointError as error:
            raise FloatingPointError(f"{error}. {self._way_out()}") from None
        except (RuntimeError, EOFError, ConnectionError) as error:
            reason = lost_process(error, self.args.dataloader_num_workers)
            if reason is None:
                raise
            if self.watch.signals.signum:  # sent to those processes too, while they loaded something else
                self.watch.stop_signal = self.watch.signals.signum
                self._stop()
            raise RuntimeError(
                f"A process that loads data has ended ({reason}), often for lack of memory: give fewer, "
                "--dataloader_num_workers, and go on with --resume_from_checkpoint True."
            ) from error
        if self.watch.signals.signum:  # it came when all was done
            self.watch.stop_signal = self.watch.signals.signum
            self._stop()
        return output

    def _way_out(self) -> str:
        rates = "--learning_rate, --text_learning_rate or --crf_learning_rate"
        remedy = f"Lower {rates}, or train without --fp16"
        whole = [path for path in checkpoints(Path(str(self.args.output_dir))) if what_is_missing(path) is None]
        if not whole:
            return f"{remedy}; no checkpoint had been written yet."
        return (
            f"{remedy}. From before it there is {' and '.join(map(str, whole))}: begin a run of its own from one with "
            "--model_name_or_path and another --output_dir."
        )

    # What a batch is made of, and in which order they come.

    def get_train_dataloader(self) -> DataLoader:
        """As in `Trainer`, with the ids of each batch's tweets."""
        loader: Any
        sampler: Any
        collate, self.data_collator = self.data_collator, WithIds(self.data_collator)
        try:
            loader, sampler = self.make_train_dataloader()
        finally:
            self.data_collator = collate
        if sampler is not None:
            # With several processes this is accelerate's wrapper, and an epoch that goes on from a checkpoint has one
            # more around it, which Trainer looks through: it looks through one.
            loader.batch_sampler.set_epoch = sampler.set_epoch
        return loader

    def make_train_dataloader(self) -> tuple[DataLoader, Sampler | None]:
        """The loader, and what in it has to know the epoch."""
        self._sampler = None
        return super().get_train_dataloader(), self._sampler

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        sampler = super()._get_train_sampler(train_dataset)
        if sampler is None or isinstance(sampler, SequentialSampler) or not hasattr(sampler, "generator"):
            return sampler
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        self._sampler = SeededByEpoch(sampler, seed)
        return self._sampler

    def training_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """As in `Trainer`; the loss of the batch is watched."""
        ids = inputs.pop("ids", ())
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.watch.see(loss * self.current_gradient_accumulation_steps, ids)
        return loss

    # Where a run goes on.

    def _init_training_state(self, *args, **kwargs):
        found = super()._init_training_state(*args, **kwargs)
        if self._resumed is not None:
            self._find_best(self._resumed)
        return found

    def _find_best(self, checkpoint: Path):
        """The best checkpoint lies beside the one to go on from, wherever the two have been moved to.

        The path that was written down may be of another folder, or of another one to start from; Trainer would take
        it, or forget the best one, which would then be removed.
        """
        best, output_dir = best_checkpoint(checkpoint), Path(str(self.args.output_dir))
        if best is None or what_is_missing(best) is not None:
            return
        if best.parent.resolve() == output_dir.resolve():
            best = output_dir / best.name  # as the paths are spelled when older ones are removed
        self.state.best_model_checkpoint = str(best)

    def _run_epoch(self, *args, **kwargs):
        if self._resumed is not None:
            self._restore(self._resumed)
            self._resumed = None
        # Trainer would take one more step.
        if self._is_over or self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def _progress(self) -> dict[str, Any]:
        counters = [
            callback.early_stopping_patience_counter
            for callback in self.callback_handler.callbacks
            if isinstance(callback, EarlyStoppingCallback)
        ]
        losses: Any = self.accelerator.gather(self._tr_loss.reshape(1))
        return {
            "loss_since_last_log": losses.tolist(),  # of each process
            "step_of_last_log": self._globalstep_last_logged,
            "evaluations_without_gain": counters,
            "is_over": self.control.should_training_stop,
            "is_regular": self.control.should_save,
        }

    def _restore(self, checkpoint: Path):
        progress = json.loads((checkpoint / PROGRESS_FILE).read_text(encoding="utf-8"))
        self._tr_loss += progress["loss_since_last_log"][self.args.process_index]
        self._globalstep_last_logged = progress["step_of_last_log"]
        self._is_over = progress["is_over"]
        stoppers = [c for c in self.callback_handler.callbacks if isinstance(c, EarlyStoppingCallback)]
        for callback, counter in zip(stoppers, progress["evaluations_without_gain"], strict=True):
            callback.early_stopping_patience_counter = counter

    # What is written.

    def _maybe_log_save_evaluate(
        self,
        tr_loss: torch.Tensor,
        grad_norm: torch.Tensor | float | None,
        model: torch.nn.Module,
        trial: Any,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        control = self.control
        if control.should_log or control.should_evaluate or control.should_save:
            self.watch.check()
        if self._rotates_behind is not None and self.watch.finite_until > self._rotates_behind:
            self._rotate(trial)
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, model, trial, *args, **kwargs)
        if self.args.world_size == 1:
            self.watch.stop_signal = self.watch.signals.signum
        if self.watch.stop_signal and not self.watch.epoch_end_is_due:
            if self._saved_step != self.state.global_step:
                self._save_checkpoint(model, trial)
            self._stop()

    def _stop(self):
        """Ends the run as it was asked to."""
        step, name = self.state.global_step, signal.Signals(self.watch.stop_signal).name
        raise Stopped(
            self.watch.stop_signal,
            f"{name}: stopped behind step {step} of {self.state.max_steps}; {self.args.output_dir} has what "
            "it takes to go on with the same command and --resume_from_checkpoint True.",
        )

    def _get_output_dir(self, trial: Any) -> str:
        return super()._get_output_dir(trial) if self._writes_to is None else str(self._writes_to)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        self.watch.check()
        self._check_weights()
        folder, state = Path(self._get_output_dir(trial)), self.state
        name, is_writer = f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}", self.args.should_save
        staged = folder / UNFINISHED / name
        best_before = state.best_model_checkpoint
        last, _ = last_whole_checkpoint(folder)
        remedy = "Make room, and go on with --resume_from_checkpoint True" + (f": {last} is whole." if last else ".")
        with writing(name, folder, remedy):
            if is_writer:
                shutil.rmtree(staged.parent, ignore_errors=True)
                staged.mkdir(parents=True)
            self.accelerator.wait_for_everyone()
            self._writes_to = staged.parent
            try:
                super()._save_checkpoint(model, trial)
            except BaseException:
                shutil.rmtree(staged.parent, ignore_errors=True)  # gives the room back
                raise
            finally:
                self._writes_to = None
            # Trainer has looked for the best one where it wrote.
            progress = self._progress()
            state.best_model_checkpoint = best_before
            best = folder / f"{PREFIX_CHECKPOINT_DIR}-{state.best_global_step}"
            if progress["is_regular"] if best.name == name else is_regular(best):
                state.best_model_checkpoint = str(best)
            if is_writer:
                state.save_to_json(str(staged / TRAINER_STATE_NAME))
                (staged / PROGRESS_FILE).write_text(json.dumps(progress, indent=2) + "\n", encoding="utf-8")
            self.accelerator.wait_for_everyone()
            if is_writer:
                finish_checkpoint(staged, folder / name)
        # The one before it goes when the step behind it was seen to have a finite loss: until then it may be the last
        # of use.
        self._saved_step = self._rotates_behind = state.global_step
        self.accelerator.wait_for_everyone()

    def _rotate(self, trial: Any):
        """Removes the oldest checkpoints, but neither the best nor the one that was saved last.

        By their steps, as a clock that was ahead would make an old one the last. Those of later steps are of before
        the run went back to an earlier one. They go first, the last of them before the others, one of which may be
        its best.
        """
        self._rotates_behind = None
        limit, best = self.args.save_total_limit, self.state.best_model_checkpoint
        found = checkpoints(Path(self._get_output_dir(trial)))
        if not self.args.should_save or not limit or limit < 0 or len(found) <= limit:
            return
        last_step = self.state.global_step if self._saved_step is None else self._saved_step
        later = [path for path in found if step_of(path) > last_step]
        in_order = later + found[len(later) :][::-1]
        old = [path for path in in_order[:-1] if best is None or path != Path(best)]
        for path in old[: len(found) - limit]:
            shutil.rmtree(path, ignore_errors=True)

    def _finalize_training(self, trial: Any, *args: Any, **kwargs: Any) -> TrainOutput:
        self.watch.check()  # of the last step, where nothing was logged or saved behind it
        self._check_weights()
        self._rotate(trial)
        return super()._finalize_training(trial, *args, **kwargs)

    def _check_weights(self):
        """A checkpoint of weights that are no numbers must not take a good one's place."""
        parameters: list[Any] = [p.detach() for p in self.model.parameters()]
        local = [p.to_local() if hasattr(p, "to_local") else p for p in parameters]
        is_bad = ~torch.stack([torch.isfinite(p).all() for p in local]).all()
        if self.args.world_size > 1:
            is_bad = is_bad.float()
            dist.all_reduce(is_bad, dist.ReduceOp.MAX)
        if is_bad:
            step = self.state.global_step
            raise FloatingPointError(f"Weights are not finite behind step {step}{self.watch.tweets()}")

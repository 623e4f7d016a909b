"""`hamlearning export`: a trained model to one that OpenVINO computes."""

from transformers.utils import logging

from hamlearning.data.downloads import wanted_of_hub


def export(source: str, folder: str, precision: str = "bf16") -> None:
    """Make an exported model of a trained one; see `exported_hamlearning.export_model`.

    Raises:
        ImportError: OpenVINO is not installed.
        OSError: The source lacks a file, or the folder holds something.
        ValueError: The source is no trained HamLearning model.
    """
    from exported_hamlearning import export_model

    logging.set_verbosity_error()  # tracing looks at every attribute, also at those that warn
    with wanted_of_hub(source):
        export_model(source, folder, precision)
    print(f"{folder}: pipeline(model={folder!r}, trust_remote_code=True)")

"""The commands of the workshop, in the order in which a net comes about: ``python -m attention_patterns_training``.

Each command imports what it needs when it runs, so that ``--help`` answers at once.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer
from typer._click.exceptions import ClickException  # typer exports only some of its kinds

from attention_patterns_training.labels.annotators import Annotator

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Collects attention maps, gathers hand labels, trains the attention pattern classifier and measures it.",
)
_Models = Annotated[
    Path,
    typer.Argument(metavar="MODELS", help="Folder of the source models and the text they read.", show_default=False),
]
_DataSet = Annotated[
    Path | None, typer.Option("--folder", help="Folder of the data set.", show_default="the shipped one")
]
_Annotator = Annotated[
    Annotator,
    typer.Option(
        help="Annotator who gives the answers: a or b, who are blind to each other, or third, who settles the maps on "
        "which they differ.",
        show_default=False,
    ),
]
_Threads = Annotated[int, typer.Option(help="Number of torch threads.", min=1)]
_Keep = Annotated[bool, typer.Option("--keep", help="Save the results for the model card.")]


@app.command()
def source_models(
    models: _Models,
    *,
    only: Annotated[
        list[str] | None, typer.Option(help="Name of a model to train; repeatable.", show_default="all models")
    ] = None,
    threads: _Threads = 2,
) -> None:
    """Trains the transformers whose attention is labelled.

    Models that the folder holds already are left as they are. All of them take about 90 minutes.
    """
    from attention_patterns_training.sources.source_models import train_source_models

    train_source_models(models, only=only, threads=threads)


@app.command()
def collect_maps(
    models: _Models,
    *,
    folder: _DataSet = None,
    more: Annotated[
        bool,
        typer.Option("--more", help="Draw further training maps instead, about which the shipped net is uncertain."),
    ] = False,
) -> None:
    """Draws maps for labelling and assigns them to splits.

    Source models whose maps are in the data set already are skipped.
    """
    from attention_patterns_training.labels import collect_maps
    from attention_patterns_training.labels.dataset import DATA

    collect_maps.collect_maps(models, folder=folder or DATA, more=more)


@app.command()
def annotate(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER", help="Folder of the data set: maps.npz, and perhaps labels.csv.", show_default=False
        ),
    ],
    *,
    annotator: _Annotator,
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 takes a free one.", min=0, max=65535)] = 8350,
) -> None:
    """Serves a local page to label maps by key press.

    Creates a missing labels.csv from the maps, and adds missing columns to it. Ctrl-C or SIGTERM ends it.
    """
    from attention_patterns_training.labels import annotate

    annotate.annotate(folder, annotator=annotator, port=port)


@app.command()
def sheets(
    sheets: Annotated[
        Path, typer.Argument(metavar="SHEETS", help="Folder to write the sheets and their key to.", show_default=False)
    ],
    *,
    annotator: _Annotator,
    folder: _DataSet = None,
) -> None:
    """Draws contact sheets of maps for an annotator.

    They hold the maps that have no answer of this annotator yet. Answers go into answers.csv in the same folder, with
    the columns sheet, position, pattern, second and the codes V, D, VD, B, H.
    """
    from attention_patterns_training.labels.dataset import DATA
    from attention_patterns_training.labels.hand_labels import make_sheets

    make_sheets(sheets, annotator=annotator, folder=folder or DATA)


@app.command()
def collect(
    answers: Annotated[
        Path,
        typer.Argument(
            metavar="ANSWERS",
            help="Folder of sheets with key.csv and answers.csv, or the file of the annotation page.",
            show_default=False,
        ),
    ],
    *,
    annotator: _Annotator,
    folder: _DataSet = None,
    alone: Annotated[
        bool, typer.Option("--alone", help="Take the answers as labels, without a second annotator.")
    ] = False,
) -> None:
    """Writes an annotator's answers into labels.csv.

    A map is labelled once a and b agree on it; otherwise the third annotator decides.
    """
    from attention_patterns_training.labels import hand_labels
    from attention_patterns_training.labels.dataset import DATA

    hand_labels.collect(answers, annotator=annotator, folder=folder or DATA, alone=alone)


@app.command()
def agreement(*, folder: _DataSet = None) -> None:
    """Prints the agreement of annotators a and b.

    Prints Cohen's kappa and the F1 of one against the other, over all maps, per class and per source model.
    """
    from attention_patterns_training.labels.dataset import DATA
    from attention_patterns_training.labels.hand_labels import print_agreement

    print_agreement(folder or DATA)


@app.command()
def calibration(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="Folder of maps labelled elsewhere, with labels.csv: id, label, second.",
            show_default=False,
        ),
    ],
    *,
    answers: Annotated[
        Path | None,
        typer.Option(
            help="Annotators' answers for these maps, a CSV file: annotator, round, id, pattern, second.",
            show_default="those of the shipped data set",
        ),
    ] = None,
) -> None:
    """Compares annotators with labels from elsewhere.

    Each annotator labelled these maps, blind to their labels, before beginning with the data set.
    """
    from attention_patterns_training.labels.hand_labels import CALIBRATION, print_calibration

    print_calibration(folder, answers=answers or CALIBRATION)


@app.command()
def data_card() -> None:
    """Writes the card and the metadata of the data set."""
    from attention_patterns_training.evaluation.data_card import write_data_card

    write_data_card()


@app.command()
def train(
    *,
    output: Annotated[
        Path | None, typer.Option(help="Folder to write the bundle to.", show_default="that of the shipped bundle")
    ] = None,
    folder: _DataSet = None,
    threads: Annotated[
        int,
        typer.Option(help="Number of torch threads; another number changes the order of sums, and so the net.", min=1),
    ] = 2,
) -> None:
    """Trains the net and exports its bundle.

    Measures the bundle on the validation split. With the default --output it also rewrites the model card; 'measure'
    then brings the rest of the card up to date.
    """
    from attention_patterns.bundle import BUNDLED
    from attention_patterns_training import train
    from attention_patterns_training.labels.dataset import DATA

    train.train(output=output or BUNDLED, folder=folder or DATA, threads=threads)


@app.command()
def ablate(*, threads: _Threads = 2) -> None:
    """Compares other designs and recipes on validation maps.

    Alternatives with saved results are not trained again.
    """
    from attention_patterns_training.evaluation import ablation

    ablation.ablate(threads=threads)


@app.command()
def evaluate(
    *,
    bundle: Annotated[
        Path | None, typer.Option(help="Folder of a model bundle.", show_default="the shipped one")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Folder of labelled maps from elsewhere.", show_default="the shipped data set")
    ] = None,
    split: Annotated[
        str, typer.Option(help="Split of the shipped data set: train, validation, test or held-out.")
    ] = "test",
    by: Annotated[
        str | None, typer.Option(help="Column of labels.csv to group the results by.", show_default=False)
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Save the results of --folder for the model card.")] = False,
) -> None:
    """Prints the metrics of a bundle on labelled maps.

    Prints macro-F1, accuracy, metrics per class, the calibration of the probabilities and the confusion matrix.
    """
    from attention_patterns_training.evaluation import evaluate

    evaluate.evaluate(bundle=bundle, folder=folder, split=split, by=by, keep=keep)


@app.command()
def measure() -> None:
    """Measures the shipped bundle and writes its model card.

    This is the only command that reads the test split and the held-out source for the card.
    """
    from attention_patterns_training.evaluation import measure

    measure.measure()


@app.command()
def robustness(*, keep: _Keep = False) -> None:
    """Measures how often answers change that should not.

    Changes the length, the data type, the padding and the attention to sink tokens of maps; then tries inputs that are
    not attention.
    """
    from attention_patterns_training.evaluation.robustness import measure_robustness

    measure_robustness(keep=keep)


@app.command()
def speed(*, keep: _Keep = False) -> None:
    """Measures the speed of designs and of int8 variants.

    Prints maps per second on one core, and ratios to the net of the paper.
    """
    from attention_patterns_training.evaluation.speed import measure_speed

    measure_speed(keep=keep)


@app.command()
def card() -> None:
    """Writes the model card from saved results."""
    from attention_patterns_training.evaluation.card import write_card

    write_card()


@app.command()
def export_sample() -> None:
    """Writes the sample that the library ships.

    The sample is the attention of the MiniLM encoder for a pair of sentences.
    """
    from attention_patterns_training.sources import export_sample

    export_sample.export_sample()


if __name__ == "__main__":
    try:
        sys.exit(app(standalone_mode=False))
    except ClickException as error:
        from attention_patterns.programs.command_line import end_with_usage_error

        end_with_usage_error(error)
    except Exception as error:
        from attention_patterns.errors import AttentionPatternsError
        from attention_patterns.programs.foreign_text import print_error

        if not isinstance(error, AttentionPatternsError | OSError):
            raise
        print_error(f"error: {error}")
        sys.exit(1)

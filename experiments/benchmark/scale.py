"""What much data and many GPUs cost, computed from what was measured."""

import itertools

from experiments.benchmark.measuring import OURS
from experiments.benchmark.setup import VIST_PHOTOS, VIST_STORIES
from utils.cli import UserError
from utils.report import Table


def cost_model(
    stories,
    photos,
    processes,
    batch_size,
    per_story,
    per_step,
    trained_parameters,
    photos_per_second,
):
    """What so much data costs on so many processes, each as fast as the one measured.

    batch_size: stories of a process in a step; per_story, per_step: seconds that a story adds to a
    step, and of the step itself (the optimizer). Returns seconds of an epoch and of preprocessing,
    and the bytes that a process sends over the network in a step, by a ring all-reduce of float32
    gradients. How long those take is not in the seconds.
    """
    steps = -(-stories // (batch_size * processes))
    return {
        "epoch_seconds": steps * (per_step + batch_size * per_story),
        "photo_seconds": photos / (photos_per_second * processes) if photos_per_second else None,
        "bytes_per_step": 2 * (processes - 1) / processes * 4 * trained_parameters,
    }


def scale_table(found):
    """The cost model over what a benchmark found. Raises UserError where training was not in it."""
    training = found.get("training")
    if not training:
        raise UserError(
            "scale: no figures of training there; expected those of python -m "
            "experiments.benchmark training"
        )
    photos = found.get("preprocessing")
    per_second = photos["rows"][0]["rates"][OURS]["median"] if photos else None
    batch_size, rows = found["setup"]["batch_size"], []
    for data, processes in itertools.product((1, 10, 100), (1, 8, 64)):
        cost = cost_model(
            data * VIST_STORIES,
            data * VIST_PHOTOS,
            processes,
            batch_size,
            training["seconds_per_story"],
            training["seconds_per_step"],
            training["trained_parameters"],
            per_second,
        )
        hours = [
            f"{s / 3600:.2f}" if s is not None else "–"
            for s in (cost["photo_seconds"], cost["epoch_seconds"])
        ]
        rows.append(
            [
                f"{data * VIST_STORIES:,}",
                str(processes),
                *hours,
                f"{cost['bytes_per_step'] / 1e6:.0f}",
            ]
        )
    caption = (
        f"Processes as fast as this one ({found['machine']['device']}), {batch_size} stories each; "
        "sending not timed."
    )
    columns = ["stories", "processes", "preprocessing, h", "epoch, h", "sent a step, MB"]
    return Table("At scale, computed from what was measured", columns, rows, caption)

"""Many questions to many networks about many images: each answered once, in a file named after all three."""

import json
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from analysis.engines import REFUSALS, Engine, Task, in_turn
from analysis.questions import Network, Question
from evssm.sources import ImageSource, NetworkSource
from evssm.stamp import image_sha256, network_stamp

PATIENCE = 3
"""So many tasks may fail before any has an answer; then what is asked is wrong, not an image."""

_STAMPED = ("network", "weights", "overrides", "trained")


def fan_out(
    sources: Iterable[NetworkSource],
    images: Sequence[ImageSource],
    questions: Sequence[Question],
    folder: Path,
    *,
    engine: Engine = in_turn,
    device: str = "cpu",
    threads: int | None = None,
    track: Callable[[str], Callable[[float, int], object]] | None = None,
    say: Callable[[str], object] | None = None,
) -> dict[NetworkSource, list[list[Path]]]:
    """For each network, image and question, in that order, the file in `folder` that holds the answer.

    Answers that are there are not computed again; each new one is on disk as soon as it is known. An answer depends on
    the network's weights, the pixels and the question alone, so it does not matter which `engine` gives it, nor in
    which order: float64 sums over the files in the order returned here are the same bit for bit, as long as `threads`
    (CPU threads of a task; `None`: torch's choice) and `device` are. Networks without a state dict are always asked.

    `track` makes, from a network's name, what is called with (done, total) tasks; `say` is told what was there
    already, and of files that are damaged, whose answers are computed again.

    Raises what was wrong with a task, once all others are answered; or at once, where the first few all fail.
    """
    say = say or (lambda line: None)
    networks = {source: source.make() for source in sources}
    stamps = {source: network_stamp(net) for source, net in networks.items()}
    asked = [_asked(image, questions) for image in images]
    place: dict[NetworkSource, list[list[Path]]] = {
        source: [[folder / f"{key_of(stamp, *facts)}.npz" for facts in of_image] for of_image in asked]
        for source, stamp in stamps.items()
    }
    wanted: dict[Path, tuple[NetworkSource, ImageSource, Question]] = {}
    for source, of_network in place.items():
        for image, of_image in zip(images, of_network, strict=True):
            for question, path in zip(questions, of_image, strict=True):
                if stamps[source]["weights"] == "as given" or not _holds(path, question, say):
                    wanted[path] = source, image, question
    paths = {path for of_network in place.values() for of_image in of_network for path in of_image}
    if len(wanted) < len(paths):
        said = f"{len(wanted)} to go" if wanted else "nothing to compute"
        say(f"{len(paths) - len(wanted)} of {len(paths)} answers are in {folder} already, {said}")
    if wanted:
        folder.mkdir(parents=True, exist_ok=True)
        _compute(wanted, _tasks(wanted, stamps, device, threads), networks, engine, track)
    return place


def key_of(stamp: dict[str, Any], digest: str, facts: dict[str, Any]) -> str:
    """The digest of a network, an image and a question: the name of the file that holds the answer."""
    asked = {"network": {key: stamp[key] for key in _STAMPED}, "image": digest, **facts}
    return sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def _asked(image: ImageSource, questions: Sequence[Question]) -> list[tuple[str, dict[str, Any]]]:
    """The image's digest and what each question asks of it; the image itself is not held."""
    pixels = image.read()
    digest = image_sha256(pixels[None])
    return [(digest, question.facts(pixels)) for question in questions]


def _holds(path: Path, question: Question, say: Callable[[str], object]) -> bool:
    """Whether the file holds an answer, whole."""
    if not path.exists():
        return False
    try:
        question.load(path)
    except ValueError as error:
        say(f"{error}; it is computed again")
        return False
    return True


def _tasks(
    wanted: dict[Path, tuple[NetworkSource, ImageSource, Question]],
    stamps: dict[NetworkSource, dict[str, Any]],
    device: str,
    threads: int | None,
) -> Iterable[Task]:
    """Each image is read when its turn comes."""
    for path, (source, image, question) in wanted.items():
        yield Task(source, stamps[source]["weights"], image.read(), question, path.stem, device, threads)


def _compute(
    wanted: dict[Path, tuple[NetworkSource, ImageSource, Question]],
    tasks: Iterable[Task],
    networks: dict[NetworkSource, Network],
    engine: Engine,
    track: Callable[[str], Callable[[float, int], object]] | None,
) -> None:
    """Puts the answers where they are wanted."""
    order = list(wanted.items())
    of_network = {source: sum(task[0] == source for _, task in order) for source in networks}
    advance = {source: track(source.name) for source, count in of_network.items() if count} if track else {}
    done = dict.fromkeys(networks, 0)
    failures: list[tuple[str, Exception]] = []
    answered = 0

    def tick(number: int, share: float) -> None:
        source = order[number][1][0]
        if source in advance:
            advance[source](round(done[source] + share, 2), of_network[source])

    for number, answer in engine(tasks, networks, tick):
        path, (source, image, question) = order[number]
        done[source] += 1
        tick(number, 0.0)
        if isinstance(answer, REFUSALS):
            failures.append((f"{source.name}, {image.name}", answer))
            if not answered and len(failures) == PATIENCE:
                break
        else:
            question.save(path, answer)
            answered += 1
    if failures:
        where, error = failures[0]
        if len(order) == 1:
            raise error
        kept = f"; the {answered} that have an answer are kept" if answered else ""
        raise ValueError(f"{where}: {error} ({len(failures)} of {len(order)} tasks failed{kept})") from error

"""Analysis of a study: joins the ratings that people saved with the key, and counts votes."""

import collections
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xmc_jax.errors import UserError, reason
from xmc_jax.study import preference
from xmc_jax.study.design import KEY_IMAGES, NOISE, SYSTEMS

QUESTIONS = ("quality", "alignment")
CHOICES = ("left", "tie", "right")
SCORES = {"a": 1.0, "tie": 0.5, "b": 0.0}  # Of the first system, see `preference`.


class Answer(NamedTuple):
    """One answer of a rater."""

    trial: int  # Position in the order in which the rater saw the items of the page.
    item: str  # Id of the item.
    question: str  # One of `QUESTIONS`.
    preferred: str  # "a", "b", "noise" or "tie".
    side: str  # One of `CHOICES`.
    seconds: float
    is_check: bool  # Whether one of the images was noise.


class Ratings(NamedTuple):
    """The answers of one rater on one page, in the order of trials."""

    rater: int
    page: int
    path: Path
    num_expected: int  # Number of answers if the rater finished the page.
    answers: tuple[Answer, ...]


def read_key(path: Path) -> dict[str, Any]:
    """Reads the key of a study.

    Raises:
      UserError: The file cannot be read, or is not a key.
    """
    key = _read_json(path)
    if not isinstance(key, dict) or not {"study", "systems", "items"} <= key.keys():
        raise UserError(f"{path} is not the key of a study; give the key.json that `build` wrote")
    return key


def read_ratings(path: Path, key: Mapping[str, Any]) -> Ratings:
    """Reads a JSON file of ratings that a page of the key's study saved.

    Raises:
      UserError: The file cannot be read, is damaged, or belongs to another study.
    """
    found = _read_json(path)
    if not isinstance(found, dict) or "answers" not in found:
        raise UserError(f"{path} holds no ratings; give the JSON files that the page saved")
    if found.get("study") != key["study"]:
        raise UserError(
            f"{path} is of study {found.get('study')}, and the key of study {key['study']}; "
            "give each study's ratings with its own key"
        )
    try:
        answers = sorted(_answer(raw, key["items"]) for raw in found["answers"])
        expected = len(QUESTIONS) * int(found["trials"])
        return Ratings(int(found["rater"]), int(found["page"]), path, expected, tuple(answers))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} is damaged ({type(error).__name__}: {reason(error)}); leave it out"
        ) from error


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {reason(error)}") from error
    except ValueError as error:
        raise UserError(
            f"{path} is not JSON ({reason(error)}); give the JSON file, not the CSV"
        ) from error


def _answer(raw: Mapping[str, Any], items: Mapping[str, Any]) -> Answer:
    images, side, left = items[raw["item"]][KEY_IMAGES], raw["choice"], raw["left"]
    if side not in CHOICES or raw["question"] not in QUESTIONS or left not in (0, 1):
        raise ValueError(f"no such answer: {raw}")
    preferred = "tie" if side == "tie" else images[left if side == "left" else 1 - left]
    seconds = float(raw["time_ms"]) / 1000
    trial, is_check = int(raw["trial"]), NOISE in images
    return Answer(trial, raw["item"], raw["question"], preferred, side, seconds, is_check)


def analyse(key: Mapping[str, Any], ratings: Sequence[Ratings]) -> dict[str, Any]:
    """All results of a study, from ratings in any order.

    The results of `_question` stand in ``questions``. Attention checks and repeated showings of an
    item say how reliable a rater is; they are not votes.

    Raises:
      UserError: Two files have the same rater and page, or there is no vote.
    """
    _check_once(ratings)
    votes = _votes(ratings)
    if not any(votes.values()):
        raise UserError("the files hold no answer yet")
    return {
        "study": key["study"],
        "systems": key["systems"],
        "questions": {question: _question(votes[question]) for question in QUESTIONS},
        "raters": _raters(ratings),
        "captions": _captions(key, votes),
    }


def _check_once(ratings: Sequence[Ratings]) -> None:
    seen: dict[tuple[int, int], Path] = {}
    for one in ratings:
        other = seen.setdefault((one.rater, one.page), one.path)
        if other is not one.path:
            raise UserError(
                f"{other} and {one.path} are both of rater {one.rater} on page {one.page}: give "
                "the one that was saved last, or correct the number if two people used the same"
            )


# For each question and each item, the answer of each rater.
Votes = dict[str, dict[str, dict[int, Answer]]]


def _votes(ratings: Sequence[Ratings]) -> Votes:
    votes: Votes = {question: collections.defaultdict(dict) for question in QUESTIONS}
    for one in ratings:
        for answer in one.answers:
            if not answer.is_check:
                # Answers are in the order of trials: the first showing counts.
                votes[answer.question][answer.item].setdefault(one.rater, answer)
    return votes


def _question(votes: Mapping[str, Mapping[int, Answer]]) -> dict[str, Any]:
    """Counts, rates with intervals, sign test and agreement for one question."""
    answers = [answer for by_rater in votes.values() for answer in by_rater.values()]
    scores = [[SCORES[a.preferred] for a in by_rater.values()] for by_rater in votes.values()]
    decided = [[score for score in one if score != 0.5] for one in scores]
    means = [statistics.fmean(one) for one in scores]
    ahead = {"a": sum(m > 0.5 for m in means), "b": sum(m < 0.5 for m in means)}
    sides = [answer.side for answer in answers if answer.side != "tie"]
    left = sides.count("left") / len(sides) if sides else math.nan
    table = _score_table(votes)
    return {
        "votes": _counts(answers),
        "preference": _plain(preference.preference_rate(scores)),
        "preference_without_ties": _plain(preference.preference_rate(decided)),
        "captions_ahead": ahead | {"even": len(means) - sum(ahead.values())},
        "sign_test_p": preference.sign_test(ahead["a"], ahead["b"]),
        "alpha_nominal": _none_if_nan(preference.krippendorff_alpha(table, "nominal")),
        "alpha_interval": _none_if_nan(preference.krippendorff_alpha(table, "interval")),
        "left_chosen": _plain(preference.wilson_rate(left, len(sides))),
    }


def _score_table(votes: Mapping[str, Mapping[int, Answer]]) -> np.ndarray:
    """Scores with one row for each rater and one column for each item; NaN where missing."""
    raters = sorted({rater for by_rater in votes.values() for rater in by_rater})
    table = np.full((len(raters), len(votes)), math.nan)
    for column, by_rater in enumerate(votes.values()):
        for rater, answer in by_rater.items():
            table[raters.index(rater), column] = SCORES[answer.preferred]
    return table


def _counts(answers: Iterable[Answer]) -> dict[str, int]:
    counts = collections.Counter(answer.preferred for answer in answers)
    return {choice: counts[choice] for choice in SCORES}


def _plain(rate: preference.Rate) -> dict[str, float | None]:
    return {name: _none_if_nan(value) for name, value in rate._asdict().items()}


def _none_if_nan(value: float) -> float | None:
    return None if math.isnan(value) else value  # JSON has no NaN.


def _raters(ratings: Sequence[Ratings]) -> list[dict[str, Any]]:
    """Progress and reliability of each rater.

    ``attention``: attention checks in which the rater preferred the image to noise, and all of
    them. ``repeats``: repeated questions with the same answer as before, and all of them.
    """
    rows = []
    for rater in sorted({one.rater for one in ratings}):
        pages = [one for one in ratings if one.rater == rater]
        answers = [answer for page in pages for answer in page.answers]
        seconds = [answer.seconds for answer in answers]
        saw_through = [answer.preferred in SYSTEMS for answer in answers if answer.is_check]
        first: dict[tuple[str, str], Answer] = {}
        same_again = []
        for answer in answers:
            before = first.setdefault((answer.item, answer.question), answer)
            if before is not answer:
                same_again.append(before.preferred == answer.preferred)
        rows.append(
            {
                "rater": rater,
                "answers": len(answers),
                "expected": sum(page.num_expected for page in pages),
                "attention": [sum(saw_through), len(saw_through)],
                "repeats": [sum(same_again), len(same_again)],
                "median_seconds": statistics.median(seconds) if seconds else None,
            }
        )
    return rows


def _captions(key: Mapping[str, Any], votes: Votes) -> list[dict[str, Any]]:
    """Votes for each caption, in the order of the study."""
    items = {id: item for id, item in key["items"].items() if NOISE not in item[KEY_IMAGES]}
    return [
        {"caption": items[id]["caption"]}
        | {question: _counts(votes[question].get(id, {}).values()) for question in QUESTIONS}
        for id in sorted(items, key=lambda id: items[id]["caption_index"])
    ]


def format_text(results: Mapping[str, Any]) -> str:
    """The results as a text for people."""
    systems = results["systems"]
    lines = [f"study {results['study']}: A is {systems['a']}, B is {systems['b']}", ""]
    for question, found in results["questions"].items():
        votes, ahead = found["votes"], found["captions_ahead"]
        lines += [
            f"{question}: {sum(votes.values())} votes: A {votes['a']}, no difference "
            f"{votes['tie']}, B {votes['b']}",
            f"  A preferred                  {_interval(found['preference'])} (a tie is half)",
            f"  A preferred where not a tie  {_interval(found['preference_without_ties'])}",
            f"  captions: A ahead in {ahead['a']}, B in {ahead['b']}, even in {ahead['even']}; "
            f"sign test p = {found['sign_test_p']:.3g}",
            f"  agreement (Krippendorff): alpha {_number(found['alpha_nominal'])} nominal, "
            f"{_number(found['alpha_interval'])} interval",
            f"  left image chosen            {_interval(found['left_chosen'])}",
            "",
        ]
    lines.append("rater  answers    saw through noise  same again  median seconds")
    for row in results["raters"]:
        progress = f"{row['answers']}/{row['expected']}"
        attention, repeats = ("/".join(map(str, row[x])) for x in ("attention", "repeats"))
        lines.append(
            f"{row['rater']:>5}  {progress:<9}  {attention:<17}  {repeats:<10}  "
            f"{_number(row['median_seconds'])}"
        )
    lines += ["", "A / tie / B: quality   alignment  caption"]
    for row in results["captions"]:
        quality, alignment = (" / ".join(str(row[q][x]) for x in SCORES) for q in QUESTIONS)
        lines.append(f"{quality:>20}   {alignment:<9}  {row['caption']}")
    return "\n".join(lines)


def _interval(rate: Mapping[str, float | None]) -> str:
    if rate["rate"] is None:
        return "no votes"
    low, high, mean = (100 * rate[name] for name in ("low", "high", "rate"))
    return f"{mean:.1f} % [{low:.1f}, {high:.1f}]"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"

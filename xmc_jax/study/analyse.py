"""From the files that raters saved to preference rates: joins them with the key, and counts."""

import collections
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xmc_jax.errors import UserError
from xmc_jax.metrics import intervals
from xmc_jax.study import preference
from xmc_jax.study.design import NOISE

QUESTIONS = ("quality", "alignment")
CHOICES = ("left", "tie", "right")


class Answer(NamedTuple):
    """One answer of a rater.

    Attributes:
      trial: Its place in what the rater saw on the page.
      item: Id of the item.
      question: One of `QUESTIONS`.
      preferred: ``"a"``, ``"b"``, ``"noise"`` or ``"tie"``.
      side: ``"left"``, ``"right"`` or ``"tie"``.
      seconds: How long it took.
      is_check: Whether one of the pictures was mere noise.
    """

    trial: int
    item: str
    question: str
    preferred: str
    side: str
    seconds: float
    is_check: bool


class Ratings(NamedTuple):
    """What one rater answered on one page.

    Attributes:
      rater: The rater's number.
      page: The page's number.
      path: The file.
      num_expected: Answers of a rater who went to the end.
      answers: In the order in which they were shown.
    """

    rater: int
    page: int
    path: Path
    num_expected: int
    answers: tuple[Answer, ...]


def read_key(path: Path) -> dict[str, Any]:
    """The key of a study.

    Raises:
      UserError: it is not there, or is no key.
    """
    key = _read_json(path)
    if not isinstance(key, dict) or not {"study", "systems", "items"} <= key.keys():
        raise UserError(f"{path} is not the key of a study; give the key.json that `build` wrote")
    return key


def read_ratings(path: Path, key: Mapping[str, Any]) -> Ratings:
    """The ratings in a file that a page saved.

    Args:
      path: The JSON file.
      key: Of the same study.

    Raises:
      UserError: the file cannot be read, is damaged, or belongs to another study.
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
            f"{path} is damaged ({type(error).__name__}: {error}); leave it out"
        ) from error


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); give the JSON file, not the CSV") from error


def _answer(raw: Mapping[str, Any], items: Mapping[str, Any]) -> Answer:
    pictures, side, left = items[raw["item"]]["pictures"], raw["choice"], raw["left"]
    if side not in CHOICES or raw["question"] not in QUESTIONS or left not in (0, 1):
        raise ValueError(f"no such answer: {raw}")
    preferred = "tie" if side == "tie" else pictures[left if side == "left" else 1 - left]
    seconds = float(raw["time_ms"]) / 1000
    trial, is_check = int(raw["trial"]), NOISE in pictures
    return Answer(trial, raw["item"], raw["question"], preferred, side, seconds, is_check)


def analyse(key: Mapping[str, Any], ratings: Sequence[Ratings]) -> dict[str, Any]:
    """All results of a study.

    Items that test attention, and repeated ones but for their first showing, count for the raters
    they tell of and for no system.

    Args:
      key: Of the study.
      ratings: In any order, at most one file of a rater and page.

    Returns:
      ``systems``; ``questions``, the numbers of `_question` for each; ``raters`` and ``captions``.

    Raises:
      UserError: two files are of one rater and page, or there is no vote in any.
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
                "the one that was saved last, or mend the number if two people had the same"
            )


# For each question, for each item, the answer of each rater.
Votes = dict[str, dict[str, dict[int, Answer]]]


def _votes(ratings: Sequence[Ratings]) -> Votes:
    votes: Votes = {question: collections.defaultdict(dict) for question in QUESTIONS}
    for one in ratings:
        for answer in one.answers:
            if not answer.is_check:
                # In the order of trials: the first showing stays.
                votes[answer.question][answer.item].setdefault(one.rater, answer)
    return votes


def _question(votes: Mapping[str, Mapping[int, Answer]]) -> dict[str, Any]:
    """Counts, rates with intervals, sign test and agreement of one question."""
    scores = {
        item: {rater: _score(answer) for rater, answer in by_rater.items()}
        for item, by_rater in votes.items()
    }
    every = [list(by_rater.values()) for by_rater in scores.values()]
    means = [statistics.fmean(votes) for votes in every if votes]
    ahead = {"a": sum(m > 0.5 for m in means), "b": sum(m < 0.5 for m in means)}
    sides = [a.side for by_rater in votes.values() for a in by_rater.values() if a.side != "tie"]
    left = preference.Rate(math.nan, 0.0, 1.0, 0.0)
    if sides:
        share = sides.count("left") / len(sides)
        left = preference.Rate(
            share, *intervals.wilson_interval(share, len(sides)), float(len(sides))
        )
    decided = [[score for score in one if score != 0.5] for one in every]
    return {
        "votes": _counts(a for by_rater in votes.values() for a in by_rater.values()),
        "preference": _plain(preference.preference_rate(every)),
        "preference_without_ties": _plain(preference.preference_rate(decided)),
        "captions_ahead": ahead | {"even": len(means) - sum(ahead.values())},
        "sign_test_p": preference.sign_test(ahead["a"], ahead["b"]),
        "alpha_nominal": _alpha(scores, "nominal"),
        "alpha_interval": _alpha(scores, "interval"),
        "left_chosen": _plain(left),
    }


def _score(answer: Answer) -> float:
    return {"a": 1.0, "tie": 0.5, "b": 0.0}[answer.preferred]


def _counts(answers) -> dict[str, int]:
    counts = collections.Counter(answer.preferred for answer in answers)
    return {choice: counts[choice] for choice in ("a", "tie", "b")}


def _plain(rate: preference.Rate) -> dict[str, float | None]:
    """JSON has no NaN."""
    return {name: None if math.isnan(x) else x for name, x in rate._asdict().items()}


def _alpha(scores: Mapping[str, Mapping[int, float]], level: str) -> float | None:
    raters = sorted({rater for by_rater in scores.values() for rater in by_rater})
    table = np.full((len(raters), len(scores)), math.nan)
    for column, by_rater in enumerate(scores.values()):
        for rater, score in by_rater.items():
            table[raters.index(rater), column] = score
    alpha = preference.krippendorff_alpha(table, level)
    return None if math.isnan(alpha) else alpha


def _raters(ratings: Sequence[Ratings]) -> list[dict[str, Any]]:
    """How far each rater got, and how far the rater's answers can be relied on.

    ``attention``: answers that preferred the picture to noise, of all such. ``repeats``: answers
    given again alike when the item came back with its sides changed, of all such.
    """
    rows = []
    for rater in sorted({one.rater for one in ratings}):
        mine = [one for one in ratings if one.rater == rater]
        answers = [answer for one in mine for answer in one.answers]
        checks = [answer for answer in answers if answer.is_check]
        first: dict[tuple[str, str], Answer] = {}
        again = [
            (before, answer)
            for answer in answers
            if (before := first.setdefault((answer.item, answer.question), answer)) is not answer
        ]
        rows.append(
            {
                "rater": rater,
                "answers": len(answers),
                "expected": sum(one.num_expected for one in mine),
                "attention": [sum(a.preferred in ("a", "b") for a in checks), len(checks)],
                "repeats": [sum(x.preferred == y.preferred for x, y in again), len(again)],
                "median_seconds": _median([answer.seconds for answer in answers]),
            }
        )
    return rows


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _captions(key: Mapping[str, Any], votes: Votes) -> list[dict[str, Any]]:
    """Votes for each caption, in the order of the study."""
    items = [(id, item) for id, item in key["items"].items() if NOISE not in item["pictures"]]
    return [
        {
            "caption": item["caption"],
            **{question: _counts(votes[question].get(id, {}).values()) for question in QUESTIONS},
        }
        for id, item in sorted(items, key=lambda pair: pair[1]["caption_index"])
    ]


def format_text(results: Mapping[str, Any]) -> str:
    """The results for people to read."""
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
            f"  left picture chosen          {_interval(found['left_chosen'])}",
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
        cells = (" / ".join(str(row[q][x]) for x in ("a", "tie", "b")) for q in QUESTIONS)
        quality, alignment = cells
        lines.append(f"{quality:>20}   {alignment:<9}  {row['caption']}")
    return "\n".join(lines)


def _interval(rate: Mapping[str, float | None]) -> str:
    if rate["rate"] is None:
        return "no votes"
    low, high, mean = (100 * rate[name] for name in ("low", "high", "rate"))
    return f"{mean:.1f} % [{low:.1f}, {high:.1f}]"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"

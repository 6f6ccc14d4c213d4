"""Tasks of text queries: their targets match the query, and their words are not read in training."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray

from swiftrec.export.data.attributes import TAGS, index_attributes, items_with
from swiftrec.export.data.corruption import mistyped
from swiftrec.export.data.dataset import Dataset, DatasetItem
from swiftrec.export.data.keywords import Keywords, is_for_training, words_of
from swiftrec.export.data.split import Cases, leave_one_out
from swiftrec.export.data.templates import EVALUATION, TRAINING, VALIDATION, spoken_title
from swiftrec.export.data.text_variants import Texts, write_texts
from swiftrec.export.evaluate.context import EvaluationContext
from swiftrec.export.evaluate.evaluation import Evaluation
from swiftrec.export.evaluate.metrics import RankedCases, rank
from swiftrec.export.evaluate.query_tasks import MAKERS, normalised
from swiftrec.export.evaluate.recommender import EvaluatedRecommender
from swiftrec.export.evaluate.tasks import FIRST, IN_TEN, SHARES, TASKS, VIOLATING, Tasks, make_tasks

_ITEMS, _USERS = 120, 50
_COLOURS = [f"colour{n}" for n in range(6)]
_SHAPES = [f"shape{n}" for n in range(8)]
_WORDS = [f"word{chr(97 + n % 26)}{chr(97 + n // 26)}" for n in range(240)]


def made(*, attributes: bool = True, texts: bool = True, tags: bool = False) -> Dataset:
    """Items with colours and shapes, a text with its own words, and titles of which every tenth is another item's."""
    rng = np.random.default_rng(3)
    items = []
    for n in range(_ITEMS):
        named = n - 1 if n % 10 == 1 else n
        title = f"Story of Winter {named} ({1900 + named % 50})"
        colours = rng.choice(_COLOURS, 2, replace=False).tolist()
        own: dict[str, list[str]] = {"colour": colours, "shape": [str(rng.choice(_SHAPES))]} if attributes else {}
        if tags:
            own[TAGS] = [f"Tag {n % 15}", "winter"]
        words = " ".join(rng.choice(_WORDS, 6, replace=False)) if texts else ""
        items.append(DatasetItem(str(n), title, f"{title}. {words}", own))
    histories = [rng.permutation(_ITEMS)[:15].astype(np.int64) for _ in range(_USERS)]
    return Dataset(items, histories, ["story", "tale"], [], "", "")


def tasks_of(dataset: Dataset, texts: Texts | None = None, seed: int = 1) -> Tasks:
    return make_tasks(dataset, texts or write_texts(dataset, 1), leave_one_out(dataset), seed)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return made()


@pytest.fixture(scope="module")
def tasks(dataset: Dataset) -> Tasks:
    return tasks_of(dataset)


def test_every_task_is_made_when_the_data_allow_it(tasks: Tasks) -> None:
    assert tasks.absent == {}
    assert {*tasks.cases} == {*TASKS}
    assert all(len(query.texts) == len(query.cases.targets) > 20 for query in tasks.queries.values())


def test_templates_of_training_validation_and_evaluation_are_disjoint() -> None:
    parts = (TRAINING, VALIDATION, EVALUATION)
    plain = [" ".join(template.lower().split()) for part in parts for template in part.all]
    assert len(plain) == len({*plain})


@pytest.mark.parametrize("seed", range(3))
def test_queries_of_tasks_are_not_in_the_training_texts(seed: int) -> None:
    for dataset in (made(), made(tags=True)):
        texts = write_texts(dataset, seed)
        read = {*texts.all}
        requests = tasks_of(dataset, texts, seed).queries
        assert {*requests["title"].texts} <= read  # control: exact titles are
        assert not {text for task, query in requests.items() if task != "title" for text in query.texts} & read


def test_queries_found_in_training_texts_are_left_out(dataset: Dataset, tasks: Tasks) -> None:
    texts = write_texts(dataset, 1)
    seen = tasks.queries["negation"].texts[0]
    fewer = tasks_of(dataset, replace(texts, others=[seen, *tasks.queries["conditions"].texts]))
    kept = [text for text in tasks.queries["negation"].texts if text != seen]
    assert fewer.queries["negation"].texts == kept
    assert len(fewer.queries["negation"].violating) == len(fewer.queries["negation"].cases.targets) == len(kept)
    assert "conditions" not in fewer.queries
    assert "training reads" in fewer.absent["conditions"]


def test_items_with_equal_titles_all_count_as_found(dataset: Dataset, tasks: Tasks) -> None:
    requests = tasks.queries["title"]
    for n, text in enumerate(requests.texts):
        item = int(requests.cases.targets[n])
        assert text == dataset.items[item].title
        same = {m for m, other in enumerate(dataset.items) if normalised(other.title) == normalised(text)}
        assert {item, *requests.cases.equivalents[n].tolist()} == same
    assert any(len(same) for same in requests.cases.equivalents)
    assert normalised("The  Matrix (1999)") == normalised("the matrix, 1999") != normalised("the matrix")
    assert normalised("?!") == "?!"


def test_typing_errors_are_one_or_two_and_keep_the_item(dataset: Dataset, tasks: Tasks) -> None:
    requests = tasks.queries["typos"]
    for text, item in zip(requests.texts, requests.cases.targets.tolist(), strict=True):
        pairs = zip(text.split(), dataset.items[item].title.split(), strict=True)
        assert sum(a != b for a, b in pairs) in (1, 2)
    assert mistyped("M (1931)", random.Random(0)) == "M (1931)"  # nothing that could be recognised with an error


def test_conditions_are_fulfilled_by_the_target(dataset: Dataset, tasks: Tasks) -> None:
    carriers, requests = index_attributes(dataset.items), tasks.queries["conditions"]
    sizes = set()
    for text, item in zip(requests.texts, requests.cases.targets.tolist(), strict=True):
        values = [value for value in carriers if value in words_and_numbers(text)]
        sizes.add(len(values))
        assert item in items_with(carriers, values)
    assert sizes == {2, 3}


def test_negation_is_fulfilled_by_the_target_and_lists_the_violating_items(dataset: Dataset, tasks: Tasks) -> None:
    carriers, requests = index_attributes(dataset.items), tasks.queries["negation"]
    for text, item, output in zip(requests.texts, requests.cases.targets.tolist(), requests.violating, strict=True):
        expected, without = sorted(
            (value for value in carriers if value in words_and_numbers(text)), key=lambda v: item not in carriers[v]
        )
        assert item in items_with(carriers, [expected], [without])
        assert output.tolist() == carriers[without].tolist()
        assert len(items_with(carriers, [expected, without]))  # else the negation would ask for nothing


def words_and_numbers(text: str) -> set[str]:
    return {word.strip(",.:") for word in text.split()}


def test_target_of_a_paraphrase_is_the_next_item(dataset: Dataset, tasks: Tasks) -> None:
    requests = tasks.queries["paraphrase"]
    pairs = [(int(h[-1]), int(w)) for h, w in zip(tasks.warm.histories, tasks.warm.targets, strict=True)]
    for text, item in zip(requests.texts, requests.cases.targets.tolist(), strict=True):
        assert any(spoken_title(dataset.items[named].title) in text for named, expected in pairs if expected == item)


def test_text_tasks_exclude_no_history(tasks: Tasks) -> None:
    """As served: nothing is known of him."""
    assert not any(len(masked) for query in tasks.queries.values() for masked in query.cases.masked)


def test_item_is_not_a_paraphrase_of_itself_when_repeated(dataset: Dataset) -> None:
    again = [np.append(history, history[-1]) for history in dataset.histories[:30]]
    parts = leave_one_out(replace(dataset, histories=[*again, *dataset.histories[30:]]), cold_share=0, repeats="allow")
    result = make_tasks(dataset, write_texts(dataset, 1), parts, 1).queries["paraphrase"].cases
    assert 0 < len(result.targets) <= _USERS - 30
    assert all(item not in output for item, output in zip(result.targets.tolist(), result.masked, strict=True))
    only = make_tasks(dataset, write_texts(dataset, 1), replace(parts, warm=parts.warm.take(np.arange(30))), 1)
    assert "repeats the one before" in only.absent["paraphrase"]


def test_tags_are_words_beyond_title_and_attributes_that_training_does_not_read(dataset: Dataset, tasks: Tasks) -> None:
    requests = tasks.queries["tags"]
    by_training = {w for p in write_texts(dataset, 1).phrases if p.kind == "words" for w in p.text.split()}
    assert by_training
    assert all(map(is_for_training, by_training))
    for text, item in zip(requests.texts, requests.cases.targets.tolist(), strict=True):
        words = {*text.split()}
        assert words <= words_of(dataset.items[item].text) - words_of(dataset.items[item].title)
        assert not words & by_training


def test_query_names_attributes_and_never_the_title_in_lower_case(dataset: Dataset) -> None:
    """Every second item has no attributes, so no query can describe it."""
    items = [replace(item, attributes=item.attributes if n % 2 else {}) for n, item in enumerate(dataset.items)]
    result = tasks_of(replace(dataset, items=items))
    requests = result.queries["query"]
    assert requests.cases.targets.tolist() == [n for n in result.warm.targets.tolist() if n % 2]
    for text, item in zip(requests.texts, requests.cases.targets.tolist(), strict=True):
        values = [value for result in items[item].attributes.values() for value in result]
        assert sorted(text.split()) == sorted([*values, "story"])


def test_every_item_that_matches_the_query_counts_as_found(dataset: Dataset, tasks: Tasks) -> None:
    tagged = tasks_of(made(tags=True)).queries["tags"]
    for text, item, same in zip(tagged.texts, tagged.cases.targets.tolist(), tagged.cases.equivalents, strict=True):
        assert {item, *same.tolist()} == {n for n in range(_ITEMS) if f"tag {n % 15}" == text}
    requests = tasks.queries["tags"]
    for text, item, same in zip(
        requests.texts, requests.cases.targets.tolist(), requests.cases.equivalents, strict=True
    ):
        described = {n for n, other in enumerate(dataset.items) if {*text.split()} <= words_of(other.text)}
        assert {item, *same.tolist()} == described
    assert any(len(same) for same in requests.cases.equivalents)


def test_tag_column_is_queried_and_not_trained_on() -> None:
    dataset = made(tags=True)
    texts = write_texts(dataset, 1)
    assert not [text for text in texts.all if "tag " in text.lower()]
    requests = tasks_of(dataset, texts).queries
    for text, item in zip(requests["tags"].texts, requests["tags"].cases.targets.tolist(), strict=True):
        assert text == f"tag {item % 15}"  # "winter" is in every title
    assert not [text for task, query in requests.items() if task != "tags" for text in query.texts if "tag " in text]
    assert any(
        "tag " in value for value in index_attributes([DatasetItem("1", "a", "a", {"other": ["tag 1"]})])
    )  # control


@pytest.mark.parametrize(
    ("dataset", "task", "why"),
    [
        (made(texts=False), "tags", "no column tags"),
        (made(attributes=False), "query", "no target has an attribute value"),
        (made(attributes=False), "conditions", "no target has two attribute values"),
        (made(attributes=False), "negation", "no attribute value of a target"),
    ],
)
def test_missing_task_has_one_sentence_with_the_reason(dataset: Dataset, task: str, why: str) -> None:
    result = tasks_of(dataset)
    assert why in result.absent[task]
    assert "\n" not in result.absent[task]
    assert task not in result.queries
    assert task not in result.cases


def test_titles_without_a_long_word_have_no_typos(dataset: Dataset) -> None:
    items = [replace(item, title=str(n)) for n, item in enumerate(dataset.items)]
    assert "no title has a word of four letters" in tasks_of(replace(dataset, items=items)).absent["typos"]


def test_tasks_are_bounded_and_the_same_for_the_same_seed(
    dataset: Dataset, tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    again, other = tasks_of(dataset), tasks_of(dataset, seed=2)
    for task in MAKERS:
        assert again.queries[task].texts == tasks.queries[task].texts
        assert task == "title" or other.queries[task].texts != tasks.queries[task].texts
    monkeypatch.setattr("swiftrec.export.evaluate.tasks.MAX_CASES", 7)
    assert {len(query.texts) for task, query in tasks_of(dataset).queries.items() if task != "query"} == {7}


def test_keywords_are_rare_but_not_unique() -> None:
    common = [DatasetItem(str(n), "a title", f"a title everywhere pair{'ab'[n % 2]}", {}) for n in range(240)]
    rare = [
        DatasetItem("x", "a title", "a title everywhere strange", {}),
        DatasetItem("y", "a title", "strange single", {}),
    ]
    assert {*Keywords.of([*common, *rare]).counts} == {"strange"}


def test_best_of_the_items_that_count_as_target_is_ranked() -> None:
    scores = np.array([[3, 1, 2, 2, 0], [3, 1, 2, 2, 0]], dtype=np.float32)
    nothing: list[NDArray[np.int64]] = [np.empty(0, np.int64)] * 2
    same = [np.array([3, 2]), np.empty(0, np.int64)]
    cases = Cases(np.arange(2), nothing, np.array([4, 4]), equivalents=same)
    result = rank(lambda part: scores[part], cases, 5)
    assert result.ranks.tolist() == [1, 4]
    taken = rank(lambda _: scores[:1], cases.take(np.array([0])), 5)
    assert taken.ranks.tolist() == [1]
    masked = replace(cases, histories=[np.array([3, 2]), np.array([4])])
    assert rank(lambda part: scores[part], masked, 5).recall.tolist() == [1, 0]


def test_violation_is_the_share_of_excluded_items_in_the_list() -> None:
    top = np.array([[0, 1, 2, 3, *[-1] * 6], [-1] * 10])
    result = RankedCases(np.array([0, 7]), top).violating([np.array([1, 3, 9]), np.array([0])])
    assert result.tolist() == [0.5, 0.0]
    assert RankedCases(np.array([0, 1, 9]), np.zeros((3, 10), np.int64)).first.tolist() == [1, 0, 0]


def test_popularity_is_evaluated_on_every_task_and_baselines_of_ids_on_two(dataset: Dataset, tasks: Tasks) -> None:
    parts = leave_one_out(dataset)
    nothing = cast(EvaluatedRecommender, None)
    ground = EvaluationContext(
        1, dataset, parts, tasks, np.ones(_ITEMS, np.int64), np.ones((_ITEMS, 1), np.float32), nothing, None
    )
    evaluation = Evaluation(ground)
    evaluation.add_baselines()
    result = evaluation.results
    assert {*result["popularity"]} == {*TASKS}
    assert {*result["transitions"]} == {"ids", "cold"}
    counts = np.bincount(np.concatenate(parts.known), minlength=_ITEMS).astype(np.float32)
    requests = tasks.queries["title"].cases
    expected = [np.argsort(-counts, kind="stable").tolist().index(n) for n in requests.targets.tolist()]
    assert (result["popularity"]["title"].ranks <= expected).all()
    assert result["popularity"]["title"].ranks[[not len(same) for same in requests.equivalents]].tolist() == [
        rank for rank, same in zip(expected, requests.equivalents, strict=True) if not len(same)
    ]
    shares = ground.shares(result["popularity"])
    assert {task: tuple(names) for task, names in shares.items()} == {
        task: tuple(names) for task, names in SHARES.items()
    }
    assert 0 < shares["negation"][VIOLATING].mean < 1
    assert shares["title"][FIRST].mean <= shares["title"][IN_TEN].mean < 0.3

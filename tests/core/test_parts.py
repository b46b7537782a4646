"""Which cases a process takes of those that several share."""

import itertools

import pytest

from medsam_adapt.core.errors import InputError
from medsam_adapt.core.parts import Part, local_rank, parse_part, part_of_environment

NAMES = [f"case_{number}" for number in range(23)]


@pytest.mark.parametrize("count", [1, 2, 5, 23, 40])
def test_every_case_is_in_exactly_one_part(count):
    parts = [Part(number, count).of(reversed(NAMES)) for number in range(1, count + 1)]
    assert sorted(itertools.chain.from_iterable(parts)) == sorted(NAMES)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_part_is_written_as_a_fraction():
    assert parse_part("2/8") == Part(2, 8)
    for text in ("0/8", "9/8", "2", "a/b", "2/0", "-1/4", "1/2/3", ""):
        with pytest.raises(InputError, match="Write it as 2/8"):
            parse_part(text)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"RANK": "0", "WORLD_SIZE": "1"}, None),
        ({"RANK": "2", "WORLD_SIZE": "4"}, (3, 4)),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "3"}, (2, 3)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "3", "SLURM_STEP_ID": "batch"}, None),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, None),
        ({"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_COUNT": "8"}, (1, 8)),
        ({"SLURM_ARRAY_TASK_ID": "8", "SLURM_ARRAY_TASK_COUNT": "8", "SLURM_ARRAY_TASK_MIN": "1"}, (8, 8)),
        ({"SLURM_ARRAY_TASK_ID": "8", "SLURM_ARRAY_TASK_COUNT": "8"}, (8, 8)),
        (
            {"SLURM_ARRAY_TASK_ID": "14", "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_MIN": "10",
             "SLURM_ARRAY_TASK_STEP": "2"},
            (3, 3),
        ),
        (
            {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "2", "SLURM_ARRAY_TASK_MIN": "0",
             "SLURM_PROCID": "2", "SLURM_NTASKS": "4"},
            (7, 8),
        ),
    ],
)  # fmt: skip
def test_torchrun_and_slurm_say_the_part(environment, expected):
    assert part_of_environment(environment) == (None if expected is None else Part(*expected))


def test_members_of_an_array_and_their_tasks_share_all_cases():
    base = {"SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_NTASKS": "2"}
    parts = {
        part_of_environment({**base, "SLURM_ARRAY_TASK_ID": str(member), "SLURM_PROCID": str(task)})
        for member in (1, 2, 3)
        for task in (0, 1)
    }
    assert parts == {Part(number, 6) for number in range(1, 7)}


@pytest.mark.parametrize(
    "environment",
    [
        {"RANK": "4", "WORLD_SIZE": "4"},
        {"RANK": "x", "WORLD_SIZE": "4"},
        {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_MIN": "1"},
        {"SLURM_PROCID": "3", "SLURM_NTASKS": "3"},
    ],
)
def test_a_place_that_cannot_be_is_refused(environment):
    with pytest.raises(InputError):
        part_of_environment(environment)


def test_the_place_on_this_machine():
    assert local_rank({}) is None
    assert (local_rank({"LOCAL_RANK": "3"}), local_rank({"SLURM_LOCALID": "1"})) == (3, 1)

"""How many engines a machine runs, and what each gets of it."""

import dataclasses

import pytest

from kfp_llm_batch.engine.devices import ON_CPU
from kfp_llm_batch.engine.shares import choose_engines, divide, place
from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.machine import read_machine
from tests.unit import machine_trees as trees
from tests.unit.demo_facts import MODEL
from tests.unit.test_plan_table import LARGE_MODEL


@pytest.mark.parametrize(
    ("tree", "model", "requests", "options", "expected", "why"),
    [
        (trees.cpuset_of_siblings, MODEL, 1_000, {}, 2, "one for each processor"),
        (trees.cpuset_of_siblings, MODEL, 63, {}, 1, "63 requests are too few for 2 engines"),
        (trees.cpuset_of_siblings, LARGE_MODEL, 1_000, {}, 1, "2 threads and weights of 2,944 MiB"),
        (trees.cpuset_of_siblings, LARGE_MODEL, 1, {"engines": 2}, 2, "set by engine_options"),
        (trees.two_memory_nodes, LARGE_MODEL, 1_000, {}, 2, "one for each memory node"),
        (trees.laptop, MODEL, 1_000, {}, 1, "4 threads"),
        (trees.docker_v1, MODEL, 1_000, {}, 1, "1 threads"),
    ],
    ids=["small", "few-rows", "large", "option", "nodes", "laptop", "1.5-processors"],
)
def test_the_number_of_engines(tree, model, requests, options, expected, why, tmp_path):
    chosen = choose_engines(read_machine(tree(tmp_path)), model, requests, options)
    assert chosen.value == expected
    assert why in chosen.reason


def test_two_engines_need_memory_for_both(tmp_path):
    machine = read_machine(trees.cpuset_of_siblings(tmp_path))
    small = dataclasses.replace(machine, memory_limit_bytes=3 * 2**30, memory_available_bytes=3 * 2**30)
    chosen = choose_engines(small, MODEL, 1_000, {})
    assert (chosen.value, chosen.reason) == (1, "too little memory for the weights of 2 engines")


def test_more_engines_than_processors_are_refused(tmp_path):
    with pytest.raises(ConfigurationError, match=r"more engines than processors.*Allowed: 1 to 4\."):
        place(read_machine(trees.laptop(tmp_path)), MODEL, 1_000, ON_CPU, {"engines": 5})


def test_cores_and_memory_are_divided_and_none_is_given_twice(tmp_path):
    machine = read_machine(trees.laptop(tmp_path))
    shares = divide(machine, 3)
    assert [share.cores for share in shares] == [machine.cores[:1], machine.cores[1:2], machine.cores[2:]]
    assert sum(share.memory_available_bytes for share in shares) <= machine.memory_available_bytes


def test_each_memory_node_keeps_its_own_memory(tmp_path):
    machine = read_machine(trees.two_memory_nodes(tmp_path))
    shares = divide(machine, 2)
    assert [list(share.numa_nodes) for share in shares] == [[0], [1]]
    assert [share.node_memory_bytes[node] for node, share in enumerate(shares)] == list(
        machine.node_memory_bytes.values()
    )


def test_a_quota_is_divided_where_it_is_the_limit(tmp_path):
    machine = read_machine(trees.large_node_with_quota(tmp_path))
    assert [(share.cpu_quota, share.usable_cpus, share.cores) for share in divide(machine, 2)] == [
        (1.0, 1, machine.cores)
    ] * 2

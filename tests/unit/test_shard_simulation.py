"""The simulation of many pods, where its outcome is known."""

import pytest

from benchmarks.shard_simulation import HOUR, Cluster, Plan, simulate

QUIET = {"evictions_per_hour": 0.0, "speed_deviation": 0.0, "slow_nodes": 0.0, "part_write": 0.0}


def plan(part_seconds: float = 60, shards_per_pod: int = 1, *, is_shared: bool = False) -> Plan:
    return Plan(part_seconds=part_seconds, shards_per_pod=shards_per_pod, is_shared=is_shared)


@pytest.mark.parametrize("is_shared", [False, True])
def test_without_chance_every_pod_takes_its_work_and_its_starts(is_shared):
    cluster = Cluster(pods=10, work=2 * HOUR, start=60, **QUIET)
    found = simulate(cluster, plan(shards_per_pod=3, is_shared=is_shared), 1)
    assert found["makespan_hours"] == pytest.approx(2 + 3 * 60 / HOUR)
    assert found["pod_hours"] == pytest.approx(10 * (2 + 3 * 60 / HOUR))
    assert (found["lost_share"], found["evictions"]) == (0, 0)


def test_an_eviction_loses_half_a_part_on_average():
    cluster = Cluster(pods=300, work=10 * HOUR, start=0, part_read=0, **{**QUIET, "evictions_per_hour": 0.2})
    found = simulate(cluster, plan(part_seconds=600), 1)
    assert found["evictions"] == pytest.approx(300 * 10 * 0.2, rel=0.15)
    assert found["lost_share"] * found["pod_hours"] * HOUR == pytest.approx(found["evictions"] * 300, rel=0.15)
    assert found["pod_hours"] * (1 - found["lost_share"]) == pytest.approx(300 * 10)


def test_slow_nodes_hold_up_their_own_list_and_not_a_shared_one():
    cluster = Cluster(pods=100, work=HOUR, start=0, **{**QUIET, "slow_nodes": 0.05})
    alone, shared = (simulate(cluster, plan(shards_per_pod=20, is_shared=shared), 1) for shared in (False, True))
    assert alone["makespan_hours"] == pytest.approx(3)
    assert shared["makespan_hours"] < 1.3

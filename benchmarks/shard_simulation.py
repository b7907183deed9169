"""Simulate a job on 1,000 pods that get evicted, and of which some are slow: its length, what is lost, what it costs.

Run: .venv/bin/python benchmarks/shard_simulation.py --output benchmarks/results/shard_simulation.json

Every pod takes shards, one after another, from a list of its own (`static`, as Kubeflow's loop does) or from one that
all share (`shared`, as an Indexed Job does). An eviction costs what was done since the last part, then the wait for a
new pod, its start, and the reading of the parts that are there. The new pod may be on a faster or slower node.
"""

from __future__ import annotations

import argparse
import dataclasses
import heapq
import json
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HOUR = 3600.0


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """What is assumed of the pods, in seconds where nothing else is said."""

    pods: int = 1_000
    work: float = 4 * HOUR
    """Of each pod at usual speed, if all had the same."""
    evictions_per_hour: float = 0.1
    """Of each pod."""
    speed_deviation: float = 0.1
    """Of the logarithm of a node's speed."""
    slow_nodes: float = 0.02
    """Share of nodes that run at a third of the speed, with noisy neighbours or failing hardware."""
    reschedule: float = 120.0
    """Mean wait for a new pod."""
    start: float = 60.0
    """Container, model and the first pass over the shard's rows."""
    part_write: float = 0.2
    """A part holds up the pod this long."""
    part_read: float = 0.05
    """For each part in the checkpoint, at a new start."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What can be chosen."""

    part_seconds: float
    """From one part to the next."""
    shards_per_pod: int
    is_shared: bool


@dataclass(kw_only=True)
class Totals:
    """Sums over all pods, in seconds."""

    running: float = 0.0
    lost: float = 0.0
    evictions: int = 0


class _Pod:
    """A pod and those that come after it, on the node that each gets."""

    def __init__(self, cluster: Cluster, plan: Plan, chance: random.Random, totals: Totals) -> None:
        self._cluster = cluster
        self._plan = plan
        self._chance = chance
        self._totals = totals
        self.now = 0.0
        self._begin(0.0)

    def _begin(self, wait: float) -> None:
        cluster, chance = self._cluster, self._chance
        self.now += wait
        is_slow = chance.random() < cluster.slow_nodes
        self._speed = chance.lognormvariate(0, cluster.speed_deviation) / (3 if is_slow else 1)
        rate = cluster.evictions_per_hour / HOUR
        self._evicted = self.now + (chance.expovariate(rate) if rate else float("inf"))

    def answer(self, work: float) -> None:
        """One shard, from the start of its process until its last part."""
        saved, parts = 0.0, 0
        step = self._plan.part_seconds
        while True:
            ready = self._run(self._cluster.start + parts * self._cluster.part_read)
            if ready:
                per_part = step + self._cluster.part_write
                needed = (work - saved) / self._speed
                whole = needed + needed / step * self._cluster.part_write
                if self._run(whole):
                    return
                done = self._ran // per_part
                self._totals.lost += self._ran - done * per_part
                saved += min(work - saved, done * step * self._speed)
                parts += int(done)
            else:
                self._totals.lost += self._ran
            self._totals.evictions += 1
            self._begin(self._chance.expovariate(1 / self._cluster.reschedule))

    def _run(self, seconds: float) -> bool:
        """Go on for so long, or until the eviction; whether the first."""
        self._ran = min(seconds, self._evicted - self.now)
        self.now += self._ran
        self._totals.running += self._ran
        return self._ran == seconds


def simulate(cluster: Cluster, plan: Plan, seed: int) -> dict[str, float]:
    """One job: hours until the last shard is answered, and what all pods did until then."""
    chance, totals = random.Random(seed), Totals()
    pods = [_Pod(cluster, plan, chance, totals) for _ in range(cluster.pods)]
    shards, work = cluster.pods * plan.shards_per_pod, cluster.work / plan.shards_per_pod
    if plan.is_shared:
        _answer_shared(pods, shards, work)
    else:
        for pod in pods:
            for _ in range(plan.shards_per_pod):
                pod.answer(work)
    return {
        "makespan_hours": max(pod.now for pod in pods) / HOUR,
        "pod_hours": totals.running / HOUR,
        "lost_share": totals.lost / totals.running,
        "evictions": totals.evictions,
    }


def _answer_shared(pods: Sequence[_Pod], shards: int, work: float) -> None:
    waiting = [(0.0, number) for number in range(len(pods))]
    for _ in range(shards):
        _, number = heapq.heappop(waiting)
        pods[number].answer(work)
        heapq.heappush(waiting, (pods[number].now, number))


def median(cluster: Cluster, plan: Plan, seeds: int) -> dict[str, float]:
    """Of several jobs, number by number."""
    runs = [simulate(cluster, plan, seed) for seed in range(seeds)]
    return {name: round(statistics.median(run[name] for run in runs), 4) for name in runs[0]}


def benchmark(seeds: int, pods: int) -> dict[str, Any]:
    """All plans against all rates of eviction."""
    rows = []
    for evictions in (0.0, 0.02, 0.1, 0.5):
        cluster = Cluster(pods=pods, evictions_per_hour=evictions)
        plans = [Plan(part_seconds=part, shards_per_pod=1, is_shared=False) for part in (1, 10, 60, 300, 1800)]
        plans += [
            Plan(part_seconds=60, shards_per_pod=shards, is_shared=shared)
            for shards in (4, 16, 64)
            for shared in (False, True)
        ]
        for plan in plans:
            found = median(cluster, plan, seeds)
            rows.append({"evictions_per_hour": evictions, **dataclasses.asdict(plan), **found})
            print(
                f"{evictions:>5} evictions/h  part {plan.part_seconds:>5} s  {plan.shards_per_pod:>3} shards a pod, "
                f"{'shared' if plan.is_shared else 'static'}  {found['makespan_hours']:>6.2f} h  "
                f"{found['pod_hours']:>7,.0f} pod hours  {100 * found['lost_share']:>5.2f} % lost",
                flush=True,
            )
    return {"seeds": seeds, "assumptions": dataclasses.asdict(Cluster(pods=pods)), "results": rows}


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--pods", type=int, default=1_000)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    results = benchmark(arguments.seeds, arguments.pods)
    if arguments.output:
        arguments.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

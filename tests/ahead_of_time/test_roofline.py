"""If these fail, the estimates do not follow from the figures of the program and of the chip."""

import pytest

from seemore_jax.ahead_of_time.roofline import (
    DCN_HOP_SECONDS,
    HOP_SECONDS,
    all_reduce_over_pods,
    all_reduce_seconds,
    largest_batch,
    predict_scaling,
    roofline,
)
from seemore_jax.ahead_of_time.topologies import CHIPS, Topology

PAYLOAD = 900_000


def test_a_step_takes_its_slowest_resource_and_then_communicates() -> None:
    chip = CHIPS["v5e"]
    times = roofline(chip, flops=int(197e12 / 100), cycles=int(chip.clock / 50), hbm_bytes=int(819e9 / 200), network=1)
    assert (times.matrix, times.cycles, times.memory) == pytest.approx((0.01, 0.02, 0.005))
    assert times.limit == "cycles"
    assert times.step == pytest.approx(1.02)


@pytest.mark.parametrize(
    ("name", "links", "hops"),
    [
        ("v5e:2x2", 2, 2),
        ("v5e:2x4", 2, 4),
        ("v5e:8x16", 3, 7 + 8),
        ("v5e:16x16", 4, 16),
        ("v5p:4x4x8", 6, 2 + 2 + 4),
        ("v5p:2x2x1", 2, 2),
        ("tpu7x:2x2x1", 2, 2 + 1),  # the two devices of a chip are one hop apart
    ],
)
def test_an_all_reduce_uses_the_links_of_its_axes(name: str, links: int, hops: int) -> None:
    """An axis that is a ring uses its links in both directions, another axis in one direction."""
    one = Topology(name)
    expected = 2 * PAYLOAD / (links * one.chip.ici_bandwidth) + 2 * hops * HOP_SECONDS
    assert all_reduce_seconds(PAYLOAD, one) == pytest.approx(expected)


def test_one_chip_sends_nothing() -> None:
    assert all_reduce_seconds(PAYLOAD, Topology("v5e:1x1")) == 0


def test_pods_exchange_what_each_chip_has_reduced() -> None:
    pod = Topology("v5e:16x16")
    assert all_reduce_over_pods(PAYLOAD, pod, 1) == all_reduce_seconds(PAYLOAD, pod)
    between = 2 * (PAYLOAD / 256) * 15 / 16 / 3.125e9 + 30 * DCN_HOP_SECONDS
    assert all_reduce_over_pods(PAYLOAD, pod, 16) == pytest.approx(all_reduce_seconds(PAYLOAD, pod) + between)


@pytest.mark.parametrize("kind", sorted(CHIPS))
def test_scaling_ends_at_4096_chips_and_efficiency_falls(kind: str) -> None:
    rows = predict_scaling(0.03, PAYLOAD, kind)
    assert [row.chips for row in rows] == [8, 256, 4096]
    for row in rows:
        assert row.efficiency == pytest.approx(0.03 / (0.03 + row.network))
    assert 1 > rows[0].efficiency > rows[-1].efficiency > 0.9


def test_clocks_are_those_of_the_peaks() -> None:
    """The clock is the peak divided by two FLOPs of each multiplier."""
    multipliers = {"v4": 8 * 128**2, "v5e": 4 * 128**2, "v5p": 8 * 128**2, "v6e": 4 * 256**2}
    for kind in multipliers:
        chip = CHIPS[kind]
        assert chip.clock == pytest.approx(chip.peak_flops / 2 / multipliers[kind], rel=0.005)


def test_a_tpu7x_chip_is_two_devices() -> None:
    assert (Topology("tpu7x:2x2x1").chips, Topology("tpu7x:2x2x1").device_count) == (4, 8)
    assert Topology("v5p:2x2x1").device_count == 4


def test_the_largest_batch_fills_the_memory_and_no_more() -> None:
    assert largest_batch(1000, 33.4) == 29
    assert largest_batch(33, 33.4) == 0
    assert largest_batch(-5, 33.4) == 0

"""README and docs quote what benchmarks wrote, clause by clause, and name what exists."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BENCHMARKS = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
SEARCH = (ROOT / "docs" / "search.md").read_text(encoding="utf-8")
RESULTS = ROOT / "benchmarks" / "results"
Figure = Mapping[str, float]


def read(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def one_line(text: str) -> str:
    return " ".join(text.split())


def times(figure: Figure) -> tuple[str, ...]:
    return tuple(f"{figure[name]:.1f}x" for name in ("median", "low", "high"))


def shares(figure: Figure) -> tuple[str, ...]:
    return tuple(f"{100 * figure[name]:.0f}%" for name in ("median", "low", "high"))


def signed(figure: Figure) -> tuple[str, ...]:
    return tuple(f"{figure[name]:+.3f}" for name in ("median", "low", "high"))


def test_the_cost_is_the_benchmarks() -> None:
    document = read("naive_vs_coralx")
    median, low, high = times(document["speedup_wall_clock"])
    mixed, *_ = times(document["speedup_over_mixed_naive"])
    steps, *_ = times(document["speedup_steps"])
    clause = (
        f"{median} less time in the median ({low} to {high}), {mixed} less than `peft` under "
        f"`torch.autocast`, and {steps} fewer steps."
    )
    assert clause in one_line(README)
    assert f"{document['tokens_per_step_naive']:.0f} tokens a step" in one_line(README)


def test_the_time_under_autocast_is_the_benchmarks() -> None:
    naive = [row["naive"] for row in read("naive_vs_coralx")["runs"]]
    shares = [own["mixed_seconds"] / own["seconds"] for own in naive]
    clause = f"{min(shares):.2f} to {max(shares):.2f} of the time of float32"
    assert clause in one_line(BENCHMARKS)
    assert f"takes about {np.median(shares):.1f} of the time" in one_line(BENCHMARKS)


def test_the_quality_is_the_benchmarks() -> None:
    document = read("naive_vs_coralx_zen4")
    plain, low, high = shares(document["hypervolume_ratio"])
    scaled, least, most = shares(document["hypervolume_ratio_calibrated"])
    apart, fewer, more = signed(document["auroc_difference"])
    clause = (
        f"{plain} of the test hypervolume of full training as PEFT leaves it ({low} to {high}), "
        f"{scaled} of the same with its probabilities calibrated as CoralX's are ({least} to "
        f"{most}), and a best test AUROC that differs by {apart} ({fewer} to {more})."
    )
    assert clause in one_line(README)


def test_fresh_seeds_are_the_benchmarks() -> None:
    document = read("naive_vs_coralx_fresh_seeds")
    plain, low, high = shares(document["hypervolume_ratio"])
    scaled, least, most = shares(document["hypervolume_ratio_calibrated"])
    apart, fewer, more = signed(document["auroc_difference"])
    clause = (
        f"seeds {', '.join(map(str, document['seeds']))}: {plain} ({low} to {high}), "
        f"{scaled} ({least} to {most}) and {apart} ({fewer} to {more})."
    )
    assert clause in one_line(README)


def test_the_quality_of_peft_itself_is_the_benchmarks() -> None:
    runs = read("naive_vs_coralx_peft")["runs"]
    seeds = " and ".join(str(row["seed"]) for row in runs)
    assert all(row["naive_genomes_trained"] == row["genomes"] == 40 for row in runs)
    ratios = " and ".join(f"{100 * row['hypervolume_ratio']:.0f}%" for row in runs)
    apart = " and ".join(f"{-row['auroc_difference']:.3f}" for row in runs)
    clause = (
        f"Where PEFT itself trained all 40, of seeds {seeds}, CoralX has {ratios} of its test "
        f"hypervolume and a best test AUROC that is {apart} lower"
    )
    assert clause in one_line(README)
    own, full, packed = (
        " and ".join(f"{row['quality'][side]['auroc_best']:.3f}" for row in runs)
        for side in ("coralx", "naive", "packed")
    )
    medians = " and ".join(f"{row['packs_less_peft']['task_skill']['median']:+.4f}" for row in runs)
    volumes = [
        [row["quality"][side]["hypervolume"] for side in ("packed", "naive")] for row in runs
    ]
    shares = " and ".join(f"{100 * packs / alone:.0f}%" for packs, alone in volumes)
    for clause in (
        f"best test AUROC is {full} for PEFT, {packed} for the packs and {own} for CoralX, whose",
        f"has {ratios} of the hypervolume of PEFT's",
        f"differs by {medians} in the median",
        f"(packs {shares} of PEFT)",
    ):
        assert clause in one_line(BENCHMARKS)
    assert f"the packs have {shares} of it" in one_line(README)


def row_of_seed(row: Mapping[str, Any]) -> str:
    sides = row["quality"]
    full = sides.get("naive") or sides["packed"]
    cells = [
        f"{row['seed']}",
        f"{row['naive']['seconds']:,.0f} s",
        f"{row['coralx']['seconds']:.0f} s",
        f"{row['speedup_wall_clock']:.1f}x less",
        f"{row['naive']['mixed_seconds']:,.0f} s",
        f"{row['speedup_over_mixed_naive']:.1f}x less",
        f"{row['coralx']['steps']:,}",
        f"{100 * row['hypervolume_ratio']:.0f}%",
        f"{100 * row['hypervolume_ratio_calibrated']:.0f}%",
        f"{sides['coralx']['auroc_best']:.3f}",
        f"{full['auroc_best']:.3f}",
    ]
    return f"| {' | '.join(cells)} |"


def test_the_table_of_seeds_is_the_benchmarks() -> None:
    rows = [row_of_seed(row) for row in read("naive_vs_coralx_zen4")["runs"]]
    assert [row for row in rows if row not in BENCHMARKS.splitlines()] == []


def test_the_seeds_on_the_newer_processor_are_the_benchmarks() -> None:
    runs = read("naive_vs_coralx")["runs"]
    *first, last = (f"{row['speedup_wall_clock']:.1f}x" for row in runs)
    seconds = [row["coralx"]["seconds"] for row in runs]
    clause = (
        f"the same five seeds took {', '.join(first)} and {last} less time, a run "
        f"{min(seconds):.0f} to {max(seconds):.0f} s."
    )
    assert clause in one_line(BENCHMARKS)


def test_the_ablation_is_the_benchmarks() -> None:
    seconds = [f"{line['seconds']:.0f} s" for line in read("naive_vs_coralx")["ablation"]]
    alone, packs, prefix, stages, early, mixed = seconds
    clause = (
        f"{alone} for one genome after another with buckets, {packs} in packs, {prefix} with the "
        f"frozen prefix, {stages} with stages, {early} with leaving early, {mixed} with products "
        "in bfloat16."
    )
    assert clause in one_line(BENCHMARKS)


def test_the_other_tools_are_the_benchmarks() -> None:
    peers = read("peers")["peers"]

    def shown(peer: str, figure: str) -> str:
        found = peers[peer][figure]
        beyond = found["least"] is not None and found["median"] >= found["least"]
        return f"{'more than ' * beyond}{found['median']:.1f}".removesuffix(".0")

    names = ("optuna_hyperband", "optuna_nsga2", "ray_asha", "syne_tune_moasha")
    whole = [shown(name, "ratio_hypervolume") for name in names]
    own = [shown(name, "ratio_hypervolume_own") for name in names]
    assert whole[2] == whole[3]
    assert own[2] == own[3]
    clause = (
        f"it takes {whole[0]} times CoralX's run (Optuna, Hyperband), {whole[1]} (Optuna, NSGA-II) "
        f"and {whole[2]} (Ray Tune, ASHA; Syne Tune, MOASHA); in multiples of the time until "
        f"CoralX had as much itself, {own[0]}, {own[1]}, and twice {own[2]}."
    )
    assert clause in one_line(README)


def test_the_step_is_the_benchmarks() -> None:
    wanted = {"sweep": "pack and batch", "pack": 8, "batch": 8}
    cells = [c for c in read("packed_step")["cells"] if wanted.items() <= c.items()]
    plain, mixed = (next(c for c in cells if c["kind"] == kind) for kind in ("float32", "mixed"))
    clause = (
        f"{plain['tokens_per_genome_step']:.0f} tokens each) run at "
        f"{plain['gflops']['median']:.0f} GFLOP/s in float32, "
        f"{100 * plain['share_of_peak']['median']:.0f}% of the machine's measured matrix peak, and "
        f"do {plain['x_sequential']['median']:.1f}x what they would do one after another; with "
        f"frozen products in bfloat16, {mixed['gflops']['median']:.0f} GFLOP/s, "
        f"{100 * mixed['share_of_peak']['median']:.0f}% of that format's peak, and "
        f"{mixed['x_sequential']['median']:.1f}x."
    )
    assert clause in one_line(BENCHMARKS)


def peaks(name: str) -> dict[str, float]:
    """GFLOP/s of the matrix peak, by kind."""
    return {cell["kind"]: cell["peak_gflops"]["median"] for cell in read(name)["cells"]}


def test_the_older_processor_is_the_benchmarks() -> None:
    document, cells = read("naive_vs_coralx_zen4"), read("packed_step_zen4")["cells"]
    newer, older = peaks("packed_step"), peaks("packed_step_zen4")
    ratios = [f"{peak['mixed'] / peak['float32']:.1f}" for peak in (newer, older)]
    median, low, high = times(document["speedup_wall_clock"])
    mixed, *_ = times(document["speedup_over_mixed_naive"])
    assert f"multiplies bfloat16 {ratios[0]} times as fast as float32" in one_line(README)
    clause = (
        f"is {ratios[1]} times as fast as its float32, {median} less time ({low} to {high}), "
        f"{mixed} under autocast."
    )
    assert clause in one_line(README)
    before, since = read("naive_vs_coralx")["runs"], document["runs"]
    changed = [
        f"seed {new['seed']} does ({new['coralx']['steps']:,} steps for {old['coralx']['steps']:,}"
        for old, new in zip(before, since, strict=True)
        if old["coralx"]["tokens"] != new["coralx"]["tokens"]
    ]
    assert len(changed) == 1
    assert f"of seeds 0 to 4 {changed[0]}, " in one_line(BENCHMARKS)
    wanted = {"sweep": "pack and batch", "pack": 8, "batch": 8}
    known = [cell for cell in cells if wanted.items() <= cell.items()]
    plain, rounded = (f"{100 * cell['share_of_peak']['median']:.0f}%" for cell in known)
    clause = (
        f"Packed steps reach {plain} of the matrix peak in float32 there and {rounded} in bfloat16"
    )
    assert clause in one_line(BENCHMARKS)


def test_the_gpu_is_the_benchmarks() -> None:
    document, cells = read("naive_vs_coralx_cuda"), read("packed_step_cuda")["cells"]
    (run,) = document["runs"]

    def find(kind: str, pack: int) -> Mapping[str, Any]:
        wanted = {"sweep": "pack and batch", "pack": pack, "batch": 1, "kind": kind}
        return next(cell for cell in cells if wanted.items() <= cell.items())

    kinds = ("mixed", "float32", "bfloat16")
    mixed, plain, rounded = (f"{find(kind, 8)['times_one']['median']:.2f}" for kind in kinds)
    large, coralx, naive = find("mixed", 32), run["coralx"], run["naive"]
    clause = (
        f"five generations of eight take {coralx['seconds']:.0f} s, "
        f"{run['speedup_wall_clock']:.1f}x less than `peft` in float32 and "
        f"{run['speedup_over_mixed_naive']:.1f}x less than under autocast, which is slower there, "
        f"in {run['speedup_steps']:.1f}x fewer steps."
    )
    assert clause in one_line(README)
    clause = (
        "Packs of 32 genomes (two blocks, one row of "
        f"{large['tokens_per_genome_step']:.0f} tokens each, frozen products in bfloat16) do "
        f"{large['x_sequential']['median']:.1f}x what they would do one after another, and packs "
        f"of eight take {mixed} times as long as one genome: {plain} in float32, {rounded} with "
        "the base in bfloat16."
    )
    assert clause in one_line(BENCHMARKS)
    clause = (
        f"so takes {naive['seconds']:.0f} s in float32 and {naive['mixed_seconds']:.0f} s under "
        f"autocast, which adds some; a CoralX run takes {coralx['seconds']:.0f} s."
    )
    assert clause in one_line(BENCHMARKS)
    most = {kind: max(c["share_of_peak"]["median"] for c in cells if c["kind"] == kind)
            for kind in kinds}  # fmt: skip
    clause = (
        f"reaches {100 * most['float32']:.0f}% of the matrix peak, and where products are in "
        f"bfloat16 {100 * max(most['mixed'], most['bfloat16']):.0f}% of theirs at most."
    )
    assert clause in one_line(BENCHMARKS)


def test_leaving_early_is_the_benchmarks() -> None:
    document = read("leaving_early")
    regret = document["regret"]
    clause = (
        f"of {document['genomes']} genomes over two seeds, trained through all stages both ways, "
        f"{document['left_early']} left a stage early, all of them S3"
    )
    left = [line["left_early"] for line in document["lines"] if line["left_early"]]
    assert all("S3_finisher" in stages for stages in left)
    assert clause in one_line(BENCHMARKS)
    clause = (
        f"the median cost in AUROC is {regret['validation']['median']:.4f} on validation rows and "
        f"{regret['test']['median']:.4f} on test rows"
    )
    assert clause in one_line(BENCHMARKS)


def test_the_replay_is_the_benchmarks() -> None:
    summary = read("search_quality")["summary"]
    ours, others = [], []
    for task in ("all", "harmful_request", "hazard_picture"):
        found = {name: own["hypervolume"]["1.0"][0] for name, own in summary[task].items()}
        ours.append(f"{found['coralx-halving']:.2f}")
        others.append(f"{max(v for name, v in found.items() if 'coralx' not in name):.2f}")
    for figures in (ours, others):
        assert f"{figures[0]}, {figures[1]} and {figures[2]}" in one_line(SEARCH)


def test_commands_have_the_settings_of_the_results() -> None:
    search, early = read("search_quality")["settings"], read("leaving_early")
    seeds = early["seeds"]
    shown = (
        f"search_quality.py --budget {search['budget']:g} --population {search['population']}`",
        f"leaving_early.py --genomes {early['genomes'] // len(seeds)} --seeds "
        f"{' '.join(map(str, seeds))}`",
        f"`--rows` (of each split; {read('warm_start')['rows']:,})",
    )
    assert [text for text in shown if text not in BENCHMARKS] == []


def test_every_result_is_named() -> None:
    names = {path.stem for path in RESULTS.glob("*.json")}
    assert [name for name in sorted(names) if name not in BENCHMARKS] == []


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#]+)\)", README))
def test_links_lead_somewhere(target: str) -> None:
    assert (ROOT / target).exists()


@pytest.mark.parametrize("path", re.findall(r"\b(configs/\w+\.yaml|examples/\w+\.py)", README))
def test_files_named_exist(path: str) -> None:
    assert (ROOT / path).is_file()

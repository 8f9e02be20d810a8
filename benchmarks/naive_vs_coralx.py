"""What the search saves: a CoralX run against naive full training of the genomes it met.

    python benchmarks/naive_vs_coralx.py --seeds 0 1 2 3 4

Both sides run on one machine, on the same rows, objectives and genomes. Naive is
`coralx.train.naive`: one PEFT adapter after another, every one for the full epochs. Loading is
left out on both sides; CoralX pays for its frozen prefix and for all of its evaluations, naive
for one evaluation of each adapter. Each side chooses its front on validation rows; figures are of
test rows.

Naive training of 5 x 40 genomes takes hours, so everything measured is kept under --work and a
second call goes on where the first stopped. `--quality` trains naively without taking the time, so
that it may run beside other work. `--packed` trains the genomes in full as packs instead: each from
fresh weights for the full epochs, by CoralX's trainer without stages, inheritance or leaving early.
That takes minutes, and stands in for the quality of naive training where the latter is not known:
as trained, since PEFT leaves probabilities as they are, and with logits scaled as CoralX does.
`--time N` trains N genomes of each seed naively anew, alone, and
naive's seconds are their mean times the number of genomes; where CoralX multiplies frozen weights
in bfloat16, they are timed under `torch.autocast` in bfloat16 as well, a second baseline beside
PEFT's default float32. A call without either does both at once.
Writes results/naive_vs_coralx.json, .md and .svg from what there is.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ablation import measure_ablation
from figures import draw_speedup
from printer import Printer
from results import FOLDER, describe_machine, spread, write_results
from safetensors.torch import load_file, save_file

from coralx.compare.ways import Side, as_result, measure_front, run_coralx
from coralx.config import Config, load_config
from coralx.records import Genome, TrainingResult, jsonable
from coralx.search import selection
from coralx.search.asktell import Search
from coralx.train.measuring import AS_TRAINED
from coralx.train.naive import NaiveRun
from coralx.train.threshold import SERVED
from coralx.train.workbench import Workbench
from coralx.train.worker import Worker

FIGURES = ("speedup_wall_clock", "speedup_over_mixed_naive", "speedup_steps", "samples_saved")
QUALITY = ("hypervolume_ratio", "hypervolume_ratio_calibrated", "auroc_difference")


def main() -> None:
    arguments = parse()
    configs = [with_seed(arguments, seed) for seed in arguments.seeds]
    for config in configs:
        measure_seed(config, arguments)
        summarise(configs, arguments.work, arguments.name)
    if arguments.ablation:
        keep(arguments.work / "ablation.json", measure_ablation(configs[0]))
        summarise(configs, arguments.work, arguments.name)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default=None, help="YAML; the default job without it")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--generations", type=int, default=5)
    parser.add_argument("--population", type=int, default=8)
    parser.add_argument("--work", type=Path, default=Path("runs/naive_vs_coralx"))
    parser.add_argument("--name", default="naive_vs_coralx", help="of the results' files")
    parser.add_argument("--again", action="store_true", help="run CoralX anew, and time it")
    parser.add_argument("--quality", action="store_true", help="no times: the machine is shared")
    parser.add_argument("--packed", action="store_true", help="naive's quality, by packs in full")
    parser.add_argument("--time", type=int, default=None, help="naive genomes timed of each seed")
    parser.add_argument("--most", type=int, default=None, help="naive genomes trained in this call")
    parser.add_argument("--ablation", action="store_true", help="the levers one at a time as well")
    return parser.parse_args()


def with_seed(arguments: argparse.Namespace, seed: int) -> Config:
    wanted = {
        "seed": seed,
        "generations": arguments.generations,
        "population": arguments.population,
    }
    return load_config(arguments.config, {"evolution": wanted})


def measure_seed(config: Config, arguments: argparse.Namespace) -> None:
    """CoralX unless it is known, then naive training of what is not known of its genomes."""
    folder = arguments.work / f"seed-{config.evolution.seed}"
    known = folder / "coralx.json"
    with tempfile.TemporaryDirectory() as scratch:
        worker = Worker(config, Path(scratch) / "checkpoints", print)
        if arguments.again or not known.exists():
            side = run_coralx(config, worker, Path(scratch), Printer())
            keep_side(known, side, timed=not arguments.quality)
        genomes = [Genome.model_validate(g) for g in read(known)["genomes"]]
        if arguments.packed:
            train_packed(config, genomes, folder)
        elif arguments.time is not None:
            chance = np.random.default_rng(config.evolution.seed)
            chosen = [genomes[i] for i in chance.permutation(len(genomes))[: arguments.time]]
            with worker.at_work():
                train_naively(worker.bench, chosen, folder / "timed", timed=True)
                if worker.bench.backbone.products.dtype == torch.bfloat16:
                    train_naively(worker.bench, chosen, folder / "timed_mixed", True, mixed=True)
        else:
            chosen = genomes if arguments.most is None else genomes[: arguments.most]
            with worker.at_work():
                train_naively(worker.bench, chosen, folder / "naive", timed=not arguments.quality)
                test_front(worker.bench, genomes, folder / "naive")


def keep_side(path: Path, side: Side, timed: bool) -> None:
    records = {
        name: [jsonable(record) for record in kind]
        for name, kind in (("genomes", side["genomes"]), ("front", side["front"]))
    }
    keep(path, {**side, **records, "timed": timed})


class Noting(Printer):
    """Keeps the search at hand, for what it was told."""

    evolution: Search

    def begin(self, evolution: Search) -> None:
        self.evolution = evolution


def train_packed(config: Config, genomes: Sequence[Genome], folder: Path) -> None:
    """All genomes trained in full, in packs."""
    if (folder / "packed.json").exists():
        return
    alone = full_training(config, len(genomes))
    founders = [genome.model_copy(update={"generation": 0, "id": genome.id}) for genome in genomes]
    with tempfile.TemporaryDirectory() as scratch:
        worker = Worker(alone, Path(scratch) / "checkpoints", print)
        noting = Noting()
        side = run_coralx(alone, worker, Path(scratch), noting, founders)
        keep_side(folder / "packed_calibrated.json", side, timed=False)
        trained = [as_trained(result) for result in noting.evolution.results]
        keep(folder / "packed_all.json", {r.genome.id: r.objectives for r in trained})
        front = selection.front(trained, alone.objectives)
        side["front"], side["best"] = measure_front(worker, front)
    keep_side(folder / "packed.json", side, timed=False)


def full_training(config: Config, count: int) -> Config:
    """So many genomes from fresh weights through one stage of the full epochs, patience off."""
    full = config.hyperband.training_stages[-1].model_dump()
    full |= {"epoch_budget": config.hyperband.full_epochs, "data_percentage": 100.0}
    return load_config(
        config.model_dump(mode="json"),
        {
            "evolution": {"generations": 1, "population": count, "warm_start": False},
            "hyperband": {
                "training_stages": [full],
                "promotion": "halving",
                "adaptive_budgets": False,
            },
            "training": {"patience": None},
        },
    )


def as_trained(result: TrainingResult) -> TrainingResult:
    """The result of a genome whose logits nobody scaled."""
    if AS_TRAINED not in result.details:
        return result
    objectives = {**result.objectives, "calibration": result.details[AS_TRAINED]}
    # A threshold is asked for, though what it would catch is not looked at here.
    details = {SERVED: result.details[SERVED]}
    return result.model_copy(update={"objectives": objectives, "details": details})


def train_naively(
    bench: Workbench, genomes: Sequence[Genome], folder: Path, timed: bool, mixed: bool = False
) -> None:
    """One after another, each kept as soon as it is there: its figures and its weights."""
    bench.validation(100)
    epochs = bench.config.hyperband.full_epochs
    for place, genome in enumerate(genomes, start=1):
        known = folder / f"{genome.id}.json"
        if known.exists():
            continue
        began = time.perf_counter()
        run = NaiveRun(bench, genome, epochs, mixed)
        run.train_to(epochs)
        validation = run.measure(bench.validation(100))
        seconds = time.perf_counter() - began
        folder.mkdir(parents=True, exist_ok=True)
        trained = {name: tensor.contiguous() for name, tensor in run.trained.items()}
        save_file(trained, folder / f"{genome.id}.safetensors")
        figures = {
            "seconds": seconds if timed else None,
            "steps": run.steps,
            "tokens": run.tokens,
            "computed_tokens": run.computed_tokens,
            "validation": validation,
        }
        keep(known, figures)
        kind = "mixed naive" if mixed else "naive"
        print(f"{kind} {place}/{len(genomes)}: {seconds:.0f} s, {validation['task_skill']:.3f}")


def test_front(bench: Workbench, genomes: Sequence[Genome], folder: Path) -> None:
    """Final figures of naive's front, once every genome is trained."""
    found = naive_results(genomes, folder)
    if len(found) < len(genomes):
        return
    for result in selection.front(found, bench.config.objectives):
        known = folder / f"{result.genome.id}.test.json"
        if not known.exists():
            run = NaiveRun(bench, result.genome, bench.config.hyperband.full_epochs)
            run.take_over(load_file(folder / f"{result.genome.id}.safetensors"))
            keep(known, run.measure(bench.test()))


def naive_results(genomes: Sequence[Genome], folder: Path) -> list[TrainingResult]:
    """Validation figures of the genomes trained so far."""
    known = [(genome, folder / f"{genome.id}.json") for genome in genomes]
    return [
        as_result("naive", genome, read(path)["validation"])
        for genome, path in known
        if path.exists()
    ]


def compare(config: Config, work: Path) -> dict[str, Any] | None:
    """One seed's row from what is kept; None before CoralX has run."""
    folder = work / f"seed-{config.evolution.seed}"
    if not (folder / "coralx.json").exists():
        return None
    coralx = read(folder / "coralx.json")
    genomes = [Genome.model_validate(g) for g in coralx["genomes"]]
    trained = read_all(folder / "naive")
    timed = [line for line in read_all(folder / "timed") or trained if line["seconds"] is not None]
    own = coralx["seconds"] if coralx["timed"] else None
    naive = seconds_of_all(timed, len(genomes))
    mixed = seconds_of_all(read_all(folder / "timed_mixed"), len(genomes))
    steps = naive_steps(folder, len(genomes))
    return {
        "seed": config.evolution.seed,
        "genomes": len(genomes),
        "naive_genomes_trained": len(trained),
        "naive_genomes_timed": len(timed),
        "coralx": {
            "seconds": own,
            "steps": coralx["steps"],
            "tokens": coralx["tokens"],
            "computed_tokens": coralx["computed_tokens"],
        },
        "naive": {"seconds": naive, "mixed_seconds": mixed, "steps": steps},
        "speedup_steps": steps / coralx["steps"] if steps else None,
        "samples_saved": 1 - coralx["steps"] / steps if steps else None,
        "speedup_wall_clock": naive / own if naive and own else None,
        "speedup_over_mixed_naive": mixed / own if mixed and own else None,
        **compare_quality(config, genomes, coralx, folder),
    }


def seconds_of_all(timed: Sequence[Mapping[str, Any]], genomes: int) -> float | None:
    """Of so many genomes at the mean of those timed; None where none was."""
    return float(np.mean([line["seconds"] for line in timed])) * genomes if timed else None


def naive_steps(folder: Path, genomes: int) -> int:
    """As many for each genome; 0 while they are not known."""
    if known := read_all(folder / "naive") or read_all(folder / "timed"):
        return int(known[0]["steps"] * genomes)
    packed = folder / "packed.json"
    return int(read(packed)["steps"]) if packed.exists() else 0


def compare_quality(
    config: Config, genomes: Sequence[Genome], coralx: Mapping[str, Any], folder: Path
) -> dict[str, Any]:
    """Test hypervolume and best test AUROC of CoralX, of naive training and of packs in full, as
    far as known. The figures hold against naive training, or else against the packs."""
    sides = {"coralx": coralx}
    if (naive := naive_quality(config, genomes, folder / "naive")) is not None:
        sides["naive"] = naive
    for name in ("packed", "packed_calibrated"):
        if (folder / f"{name}.json").exists():
            sides[name] = read(folder / f"{name}.json")
    if len(sides) == 1:
        return dict.fromkeys(QUALITY)
    fronts = {
        name: [TrainingResult.model_validate(r) for r in side["front"]]
        for name, side in sides.items()
    }
    everyone = [result for front in fronts.values() for result in front]
    bounds = selection.observed_bounds(everyone, config.objectives)
    quality = {
        name: {
            "front": len(front),
            "hypervolume": selection.hypervolume(front, config.objectives, bounds),
            "auroc_best": sides[name]["best"],
        }
        for name, front in fronts.items()
    }
    own, scaled = quality["coralx"], quality.get("packed_calibrated")
    full = quality.get("naive") or quality.get("packed")
    best = full or scaled  # scaling leaves AUROC as it is
    return {
        "hypervolume_ratio": full and own["hypervolume"] / full["hypervolume"],
        "hypervolume_ratio_calibrated": scaled and own["hypervolume"] / scaled["hypervolume"],
        "auroc_difference": best and own["auroc_best"] - best["auroc_best"],
        "quality": quality,
        "packs_less_peft": pair(folder),
    }


def pair(folder: Path) -> dict[str, dict[str, float]] | None:
    """Validation figures of genomes trained in packs less those of PEFT, genome by genome."""
    if not (folder / "packed_all.json").exists() or not (folder / "naive").exists():
        return None
    packed, found = read(folder / "packed_all.json"), {}
    for name in ("task_skill", "safety", "false_positive_cost"):
        both = [
            packed[path.stem][name] - read(path)["validation"][name]
            for path in sorted((folder / "naive").glob("*.json"))
            if name in packed.get(path.stem, {})
        ]
        low, median, high = np.quantile(both, (0.25, 0.5, 0.75)) if both else [np.nan] * 3
        found[name] = {
            "genomes": len(both),
            "median": median,
            "lower_quartile": low,
            "upper_quartile": high,
        }
    return found


def naive_quality(config: Config, genomes: Sequence[Genome], folder: Path) -> dict[str, Any] | None:
    """Naive's front with test figures, and its most skilled one's test AUROC; None before all are
    trained and measured."""
    found = naive_results(genomes, folder)
    chosen = selection.front(found, config.objectives)
    paths = [folder / f"{r.genome.id}.test.json" for r in chosen]
    if len(found) < len(genomes) or not all(path.exists() for path in paths):
        return None
    tested = [
        as_result("naive", r.genome, read(path)) for r, path in zip(chosen, paths, strict=True)
    ]
    first = max(chosen, key=lambda r: r.objectives["task_skill"]).genome.id
    best = next(r for r in tested if r.genome.id == first).objectives["task_skill"]
    return {"front": tested, "best": best}


def summarise(configs: Sequence[Config], work: Path, name: str) -> None:
    """Write the results from what is kept."""
    rows = [row for row in (compare(config, work) for config in configs) if row is not None]
    config, summary = configs[0], {}
    for figure in (*FIGURES, *QUALITY):
        values = [row[figure] for row in rows if row[figure] is not None]
        summary[figure] = {**spread(values), "seeds": len(values)} if values else None
    folders = [work / f"seed-{c.evolution.seed}" for c in configs]
    lines = [line for f in folders for kind in ("naive", "timed") for line in read_all(f / kind)]
    tokens = [line["computed_tokens"] / line["steps"] for line in lines]
    ablation = work / "ablation.json"
    document = {
        **summary,
        "seeds": [row["seed"] for row in rows],
        "generations": config.evolution.generations,
        "population": config.evolution.population,
        "model": config.base_model,
        "tokens_per_step_naive": float(np.mean(tokens)) if tokens else None,
        "machine": describe_machine(),
        "runs": rows,
        "ablation": read(ablation) if ablation.exists() else None,
    }
    write_results(name, document, describe(document))
    draw_speedup(document, FOLDER / f"{name}.svg")


def describe(document: dict[str, Any]) -> list[str]:
    rows = document["runs"]
    tokens = document["tokens_per_step_naive"]
    lines = [
        f"{document['population']} genomes x {document['generations']} generations, "
        f"{document['model']}" + (f", {tokens:.0f} tokens a naive step" if tokens else ""),
        "",
        "| seed | naive s | mixed naive s | timed on | CoralX s | faster | than mixed | steps "
        "| fewer | hypervolume | of calibrated | AUROC |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['seed']} | {shown(row['naive']['seconds'], '.0f')} | "
            f"{shown(row['naive']['mixed_seconds'], '.0f')} | "
            f"{row['naive_genomes_timed']} of {row['genomes']} | "
            f"{shown(row['coralx']['seconds'], '.0f')} | "
            f"{shown(row['speedup_wall_clock'], '.1f', 'x')} | "
            f"{shown(row['speedup_over_mixed_naive'], '.1f', 'x')} | {row['coralx']['steps']:,} | "
            f"{shown(row['speedup_steps'], '.2f', 'x')} | "
            f"{shown(row['hypervolume_ratio'], '.3f')} | "
            f"{shown(row['hypervolume_ratio_calibrated'], '.3f')} | "
            f"{shown(row['auroc_difference'], '+.3f')} |"
        )
    lines.append("")
    for name in (*FIGURES, *QUALITY):
        if (found := document[name]) is not None:
            lines.append(
                f"- {name}: {found['median']:.3f} ({found['low']:.3f} to {found['high']:.3f}; "
                f"{found['seeds']} seed(s))"
            )
    if any("naive" not in row["quality"] for row in rows if "quality" in row):
        lines += ["", "Quality of full training by packs, where naive training was timed alone."]
    lines += describe_sides(rows)
    if document["ablation"]:
        lines += ["", "One generation of the first seed, a lever more in each line:", ""]
        lines += ["| lever | seconds | steps | of the line before |", "|---|---|---|---|"]
        lines += [
            f"| {line['lever']} | {line['seconds']:.0f} | {line['steps']:,} | {line['share']:.2f} |"
            for line in document["ablation"]
        ]
    return lines


def describe_sides(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What each way came to, of seeds whose genomes PEFT and packs trained in full."""
    both = [row for row in rows if {"naive", "packed"} <= row.get("quality", {}).keys()]
    if not both:
        return []
    lines = ["", "| seed | way | front | hypervolume | best AUROC |", "|---|---|---|---|---|"]
    for row in both:
        for name, side in row["quality"].items():
            lines.append(
                f"| {row['seed']} | {name} | {side['front']} | {side['hypervolume']:.5f} | "
                f"{side['auroc_best']:.3f} |"
            )
    lines += [
        "",
        "Validation figures of packs less PEFT's, genome by genome: median (quartiles)",
        "",
    ]
    lines += ["| seed | genomes | figure | packs less PEFT |", "|---|---|---|---|"]
    for row in both:
        for name, own in (row["packs_less_peft"] or {}).items():
            quartiles = f"{own['lower_quartile']:+.4f} to {own['upper_quartile']:+.4f}"
            cells = f"{row['seed']} | {own['genomes']} | {name} | {own['median']:+.4f}"
            lines.append(f"| {cells} ({quartiles}) |")
    return lines


def shown(value: float | None, form: str, unit: str = "") -> str:
    return "-" if value is None else format(value, form) + unit


def read_all(folder: Path) -> list[dict[str, Any]]:
    """All training figures of a folder; those of test rows lie beside them under other names."""
    paths = sorted(p for p in folder.glob("*.json") if not p.name.endswith(".test.json"))
    return [read(path) for path in paths]


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def keep(path: Path, document: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

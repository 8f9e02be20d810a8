# python examples/train_population.py
"""Train four genomes of your own choice through the stages, without evolution around them."""

from coralx import Genome, HyperbandTrainer, LoRAConfig

CONFIG = {
    "vision_tower": None,
    "data": {"image_column": None, "max_rows": 400},  # the built-in rows, text alone
    "training": {"attack_rows": 4},
}

GENOMES = [
    Genome(lora_cfg=LoRAConfig(r=4, alpha=8, layers=2), learning_rate=2e-3),
    Genome(lora_cfg=LoRAConfig(r=8, alpha=16, layers=2), learning_rate=4e-3),
    Genome(lora_cfg=LoRAConfig(r=8, target_modules=("all-linear",), layers=2), learning_rate=3e-3),
    Genome(lora_cfg=LoRAConfig(r=4, target_modules=("up", "down"), layers=2), learning_rate=1e-3),
]


def main() -> None:
    trainer = HyperbandTrainer(CONFIG)
    results = trainer.train_population(GENOMES)
    for result in results:
        skill = result.objectives.get("task_skill")
        outcome = result.stopped.reason if result.stopped else f"skill {skill:.3f}"
        print(f"{result.stage:<12} {result.genome.id} {outcome}")
    report = trainer.get_training_efficiency_report(results)
    print(f"{report['efficiency_ratio']:.1f}x")


if __name__ == "__main__":
    main()

"""The settings that `--help` of a command shows: those that the command reads and that people change most."""

from collections.abc import Mapping

__all__ = ["SHOWN"]

_PLACES = "data_dir models_dir runs_dir"
_TRAINING = "name seed device precision workers compile recompute data_dir models_dir runs_dir"


def _training(stage: str, *more: str) -> str:
    names = ("epochs", "steps", "batch", *more, "lr", "muon_lr", "clip", "ema", "init_from")
    return " ".join(f"train_{stage}.{name}" for name in names)


# Command (of `train`: and the phase) -> title of a group -> settings. `train_*` stands for the four stages at once.
SHOWN: Mapping[str, Mapping[str, str]] = {
    "run": {
        "Run": f"name seed world device precision workers {_PLACES}",
        "Recordings": "collect.train_episodes collect.noise_levels collect.workers collect.seed data.sources",
        "Training, where STAGE is tokenizer, dynamics, agent or imagination": (
            "train_*.epochs train_*.batch train_*.lr train_*.muon_lr train_*.checkpoint_every"
        ),
        "Models": "tokenizer.context dynamics.context dynamics.trunk.width dynamics.trunk.depth",
        "Dreams": "imagination.context imagination.horizon imagination.gamma imagination.updates sampling.k_sample",
        "Evaluation": "evaluation.episodes evaluation.rollouts",
    },
    "collect": {
        "Run": "name data_dir runs_dir logs_dir",
        "Environment": "env.game env.tasks env.max_steps env.height env.width",
        "Recordings": (
            "collect.train_episodes collect.validation_episodes collect.noise_levels collect.random_fraction"
            " collect.unlabelled_fraction collect.off_task_fraction collect.workers collect.seed"
        ),
    },
    "train": {
        "Run": f"name seed device precision workers {_PLACES}",
        "Recordings": "data.sources data.weights",
        "Training, where STAGE is tokenizer, dynamics, agent or imagination": (
            "train_*.epochs train_*.steps train_*.batch train_*.lr train_*.muon_lr"
            " train_*.weight_decay train_*.clip train_*.ema train_*.checkpoint_every"
        ),
    },
    "train tokenizer": {
        "Run": _TRAINING,
        "Recordings": "data.sources",
        "Model": (
            "tokenizer.patch tokenizer.latents tokenizer.channels tokenizer.context tokenizer.encoder.width"
            " tokenizer.encoder.depth tokenizer.decoder.width tokenizer.decoder.depth"
        ),
        "Loss": (
            "tokenizer_objective.mask_max tokenizer_objective.lpips tokenizer_objective.lpips_weight"
            " tokenizer_objective.uniform_share"
        ),
        "Training": _training("tokenizer", "length", "long_length"),
    },
    "train dynamics": {
        "Run": _TRAINING,
        "Recordings": "data.sources",
        "Model": "dynamics.tokens dynamics.channels dynamics.context dynamics.trunk.width dynamics.trunk.depth",
        "Loss": (
            "dynamics_objective.bootstrap_fraction dynamics_objective.bootstrap_start dynamics_objective.image_fraction"
            " dynamics_objective.unlabelled_fraction dynamics_objective.uniform_share"
        ),
        "Training": _training("dynamics", "length", "long_length"),
    },
    "train agent": {
        "Run": _TRAINING,
        "Recordings": "data.sources",
        "Model": "agent.own_weights agent.distances agent.goal agent.hidden",
        "Loss": (
            "agent_objective.policy_weight agent_objective.dynamics_weight agent_objective.heads_input"
            " agent_objective.uniform_share agent_objective.world_lr_scale"
        ),
        "Training": _training("agent", "length", "long_length"),
    },
    "train imagination": {
        "Run": _TRAINING,
        "Recordings": "data.sources",
        "Dreams": "imagination.context imagination.horizon imagination.updates imagination.uniform_share",
        "Loss": (
            "imagination.gamma imagination.lambda_ imagination.alpha imagination.beta imagination.margin"
            " imagination.finetune"
        ),
        "Sampling": "sampling.k_sample sampling.support",
        "Training": _training("imagination"),
    },
    "encode": {"Run": f"name device precision {_PLACES}", "Recordings": "data.sources"},
    "evaluate": {
        "Run": f"name device precision {_PLACES}",
        "Evaluation": (
            "evaluation.episodes evaluation.full_episodes evaluation.batch evaluation.rollouts evaluation.context"
            " evaluation.horizon collect.seed"
        ),
        "Sampling": "sampling.k_sample sampling.support",
    },
    "report": {"Run": "name runs_dir logs_dir"},
    "ablate": {
        "Run": f"name seed device precision {_PLACES}",
        "Training": "train_dynamics.batch train_dynamics.length train_dynamics.lr train_dynamics.muon_lr",
        "Evaluation": "evaluation.rollouts evaluation.context evaluation.horizon",
    },
    "plan": {
        "Training, where STAGE is tokenizer, dynamics, agent or imagination": "train_*.batch precision recompute",
        "Lengths of rows": (
            "train_tokenizer.length train_dynamics.length train_dynamics.long_length train_agent.length"
            " train_agent.long_length"
        ),
        "Tokenizer": "tokenizer.latents tokenizer.channels tokenizer.encoder.width tokenizer.encoder.depth",
        "Dynamics": "dynamics.tokens dynamics.context dynamics.registers dynamics.trunk.width dynamics.trunk.depth",
        "Agent": "agent.tokens agent.own_weights",
        "Dreams": "imagination.context imagination.horizon sampling.k_sample",
    },
}

"""What a supervisor is given at the start: the experiment, and what the roof prepared for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from psedge.config import Experiment
from psedge.protocol.status import Evaluation
from psedge.supervisor.checkpoint import Checkpoint
from psedge.supervisor.model_state import ModelState

#: Measures a model on the test data, off the event loop.
Evaluator = Callable[[ModelState], Awaitable[Evaluation]]


@dataclass(frozen=True, slots=True)
class RunSetup:
    """Everything that one run starts from.

    run: its name. folder: its run folder, as a person would type it.
    model: None when a library worker is to bring it.
    train_samples: size of the training set, None when only the workers know it.
    evaluator: None when there is no test data here.
    checkpoint: where to continue, None to start afresh. For a run that the supervisor's book shows
    to be training, it is only what to go back to if its servers are gone.
    from_checkpoint: such a run goes back to it at once, whatever its servers have.
    process, machine: pid of the supervisor and name of its machine, for people.
    """

    run: str
    folder: str
    experiment: Experiment
    model: ModelState | None = None
    train_samples: int | None = None
    evaluator: Evaluator | None = None
    checkpoint: Checkpoint | None = None
    process: int = 0
    machine: str = ""
    from_checkpoint: bool = False

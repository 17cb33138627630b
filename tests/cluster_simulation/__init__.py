"""A whole cluster in memory, with everything that can be lost: the real cores, messages that take time, and faults.

    world.py       the clock, the seed, connections, and the trace
    scheduler.py   `SchedulerCore` with what its shell decides; it can be killed, and another one takes its place
    machine.py     `WorkerCore` with what its shell decides
    slot.py        its slots, which are modelled, and the client of the tasks in each
    user.py        `ClientCore` with what its shell decides, and a user who submits, cancels and leaves
    promises.py    what must hold, whatever happens
    simulation.py  one seed, from the first task to an idle cluster

Nothing waits and nothing is left to chance: a seed leads to the same trace each time. `python -m
tests.cluster_simulation --seed N` prints the trace of one, `--seeds N` looks at many.
"""

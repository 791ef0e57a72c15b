"""Sweeps: many runs from one file, each cell exactly once, whatever happens to the machines that run them.

    files.py    a sweep file in W&B's format: what it asks for, its cells, its command
    store.py    which cells there are, and who runs which: a database, every claim a lease with a fencing token
    search.py   what to try next, by Optuna, and the study that its dashboard shows
    agent.py    claims cells and runs them as `ttrl run` would, resumes those of dead agents, publishes records
    keeper.py   renews an agent's lease beside its run, and says when it is over
    folders.py  where claims write, copies of records that are being written, publishing
    status.py   plan and status, as text
    command.py  `ttrl sweep`

A sweep's folder:

    sweep.db            the database, unless --storage names a server
    study.db            the Optuna study: of a search, or of a grid by `ttrl sweep study`
    runs/KEY            finished records, KEY = NAME-HASH-bB-dD-rR
    attempts/N/KEY      the record that the N-th claim of the cell is writing; it becomes runs/KEY
    logs/KEY.N.log      what its process printed
"""

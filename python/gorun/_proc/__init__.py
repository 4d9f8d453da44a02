"""Worker processes: what carries a map (`gorun.map(on="process")`) and an executor.

pool.py    `Pool`: single calls with callbacks, for an executor
crew.py    `Crew`: workers at work on batches of numbered items, for a map and for a pool
watch.py   the half of a crew that looks after events: what workers send, their deaths
inbox.py   the half of a crew that takes in what workers send
lead.py    who waits for the answers of a pool: its thread, or who wants one; Ctrl-C meanwhile
will.py    what becomes of the batches of a worker that died
client.py  what a crew and its client say to each other
warm.py    workers that are kept between maps; exit and fork
worker.py  one worker as the parent sees it
start.py   how a worker is started
sizing.py  how many items make a batch
codec.py   what travels by pickle, what by cloudpickle, and who is to blame if it cannot
linked.py  frames by rings in shared memory (both sides)
wire.py    frames, and how they go by a socket; large ones in segments (both sides)
byvalue.py cloudpickle, and what it leaves out (both sides)
errors.py  how exceptions travel (both sides)
child.py   what a worker runs (the other side)

Imports go downwards in this list. The last five import nothing of gorun: a worker loads wire.py,
child.py and, with the extension, linked.py; the two between them when it needs them.
"""

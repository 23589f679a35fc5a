import subprocess
import sys

SCRIPT = """
import os, torch
before = torch.get_rng_state(), torch.get_num_threads(), os.listdir("/proc/self/task")
import stepsize.sweep.first_step
assert torch.equal(torch.get_rng_state(), before[0]), "numbers were drawn"
assert torch.get_num_threads() == before[1]
assert {*os.listdir("/proc/self/task")} <= {*before[2]}, "threads were started"
assert not torch.cuda.is_initialized()
child = os.fork()
if child == 0:
    network = torch.nn.Linear(256, 256)
    network(torch.ones(256, 256)).sum().backward()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""


def test_what_the_server_does_starts_no_thread_and_draws_no_number_and_a_child_trains() -> None:
    subprocess.run([sys.executable, "-c", SCRIPT], check=True, timeout=120)

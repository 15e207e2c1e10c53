"""Training does not load torch's compiler; a program that uses it gets all of it."""

import subprocess
import sys
from textwrap import dedent

import pytest

TRAINED = """
    import sys
    from bagpipe.lowlevel import torch_compiler
    torch_compiler.defer()
    import bagpipe.trainer.loop
    import torch
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adagrad(model.parameters())
    def step():
        optimizer.zero_grad()
        model(torch.ones(4, 3)).sum().backward()
        optimizer.step()
    step()
    asleep = lambda: "torch._dynamo.convert_frame" not in sys.modules
    assert asleep(), "an optimizer loaded it"
"""
ASKED = {
    "a module inside it": """
        from torch._dynamo.utils import counters
        import torch._dynamo.config
        assert torch._dynamo.utils.counters is counters
        assert sys.modules["torch._dynamo.config"] is torch._dynamo.config
        assert torch._dynamo.config.__spec__.origin.endswith("config.py")
    """,
    "a compilation": """
        compiled = torch.compile(model, backend="eager")
        assert torch.equal(compiled(torch.ones(1, 3)), model(torch.ones(1, 3)))
        torch.compile(step, backend="eager")()
        torch_compiler.defer()  # What is there stays.
    """,
}


def run(program):
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED.keys())
def test_training_loads_none_of_it_and_a_program_that_asks_gets_all(asked):
    """An optimizer's step loads no compiler; what is asked for afterwards is the real module, once."""
    awake = """
        assert not asleep()
        assert sys.modules["torch._dynamo"] is torch._dynamo
        assert type(torch._dynamo).__name__ == "module"
        assert torch._dynamo.disable.__module__ == "torch._dynamo.decorators"
        step()
        assert not any(type(finder).__module__ == torch_compiler.__name__ for finder in sys.meta_path)
    """
    done = run(dedent(TRAINED) + dedent(asked) + dedent(awake))
    assert done.returncode == 0, done.stderr

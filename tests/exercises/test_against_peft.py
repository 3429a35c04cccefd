"""Solutions of exercises against PEFT: `adapter_names` for several adapters on one batch, and its intruders."""

import warnings

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.intruders import reduce_intruder_dimension
from torch import nn

from workbench.exercises.e05_capacity import together
from workbench.exercises.e07_intruders import intruders


class OneLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 4, bias=False)

    def forward(self, x):
        return self.layer(x)


def test_rows_of_several_adapters_are_pefts():
    torch.manual_seed(0)
    options = {"target_modules": ["layer"], "init_lora_weights": False, "lora_alpha": 4}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT warns of names that it may reload
        model = get_peft_model(OneLayer(), LoraConfig(r=2, **options), adapter_name="first")
        model.add_adapter("second", LoraConfig(r=3, **options))
    model.eval()
    x, owner = torch.randn(6, 5), torch.tensor([0, 1, 1, 0, 0, 1])
    names = ["first", "second"]
    wanted = model(x, adapter_names=[names[place] for place in owner])
    layer = model.base_model.model.layer
    adapters = [(layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name]) for name in names]
    assert torch.allclose(together(x, layer.base_layer.weight, adapters, owner), wanted, atol=1e-6)


def test_intruders_are_as_many_as_pefts():
    counts = []
    for seed in range(8):
        torch.manual_seed(seed)
        layers = {"up": nn.Linear(8, 40, bias=False), "down": nn.Linear(40, 8, bias=False)}
        config = LoraConfig(r=2, target_modules=[*layers], init_lora_weights=False, lora_alpha=4 + 4 * seed)
        model = get_peft_model(nn.ModuleDict(layers), config)
        own = {}
        for name in layers:
            layer = model.base_model.model[name]
            before = layer.base_layer.weight.detach().clone()
            after = before + layer.get_delta_weight("default").detach()
            own[name] = len(intruders(before, after, 4, 0.5))
        said = []
        reduce_intruder_dimension(model, top_k=4, threshold_epsilon=0.5, logging_sink=said.append)
        lines = dict(line.removeprefix("base_model.model.").split(": ", 1) for line in said if line.startswith("base"))
        assert lines == {name: f"Intruders: {count}" if count else "No intruders" for name, count in own.items()}
        counts += own.values()
    assert any(counts) and 0 in counts

"""Solutions of exercises against PEFT: several adapters on one batch are its `adapter_names`."""

import warnings

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from workbench.exercises.e05_capacity import together


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

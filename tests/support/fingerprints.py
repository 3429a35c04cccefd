"""What a test compares to see that a shared base is as it was."""


def fingerprint(base):
    model = base.model
    return (
        [(name, type(module)) for name, module in model.named_modules()],
        [(name, p.dtype, p.requires_grad, p.double().sum().item()) for name, p in model.named_parameters()],
        model.training,
    )

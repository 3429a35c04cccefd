"""Calls that fail in the middle."""


def breaks_off(error: BaseException, at: int = 1):
    """adapters.save, but the call number `at` gets half through and raises."""
    from workbench import adapters

    calls, real = [], adapters.save

    def save(model, folder):
        calls.append(folder)
        if len(calls) != at:
            return real(model, folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "adapter_config.json").write_text("{")
        raise error

    return save
